//! Phrases with the opposite meaning, which differ in one word and must not be detected: "turn off the lamp" for "turn on the lamp".

/// Pairs of words with opposite meanings in commands, by primary language tag.
const PAIRS: [(&str, &[(&str, &str)]); 7] = [
    (
        "en",
        &[
            ("on", "off"),
            ("up", "down"),
            ("open", "close"),
            ("start", "stop"),
            ("morning", "evening"),
            ("left", "right"),
            ("lock", "unlock"),
            ("louder", "quieter"),
            ("next", "previous"),
            ("brighter", "darker"),
            ("yes", "no"),
        ],
    ),
    (
        "de",
        &[
            ("an", "aus"),
            ("ein", "aus"),
            ("auf", "zu"),
            ("hoch", "runter"),
            ("öffne", "schließe"),
            ("lauter", "leiser"),
            ("heller", "dunkler"),
            ("morgen", "abend"),
            ("links", "rechts"),
            ("ja", "nein"),
        ],
    ),
    (
        "fr",
        &[
            ("allume", "éteins"),
            ("ouvre", "ferme"),
            ("monte", "baisse"),
            ("augmente", "diminue"),
            ("plus", "moins"),
            ("gauche", "droite"),
            ("bonjour", "bonsoir"),
            ("oui", "non"),
        ],
    ),
    (
        "es",
        &[
            ("enciende", "apaga"),
            ("abre", "cierra"),
            ("sube", "baja"),
            ("más", "menos"),
            ("izquierda", "derecha"),
            ("días", "noches"),
        ],
    ),
    (
        "it",
        &[
            ("accendi", "spegni"),
            ("apri", "chiudi"),
            ("alza", "abbassa"),
            ("più", "meno"),
            ("sinistra", "destra"),
            ("buongiorno", "buonasera"),
        ],
    ),
    (
        "pt",
        &[
            ("liga", "desliga"),
            ("ligue", "desligue"),
            ("acende", "apaga"),
            ("abre", "fecha"),
            ("aumenta", "diminui"),
            ("mais", "menos"),
            ("esquerda", "direita"),
        ],
    ),
    ("ru", &[("включи", "выключи"), ("открой", "закрой"), ("громче", "тише"), ("выше", "ниже"), ("налево", "направо")]),
];

/// `phrase` with one word replaced by its opposite, in every possible way.
pub(super) fn opposites(phrase: &str, language: &str) -> Vec<String> {
    let primary = language.split('-').next().unwrap_or_default();
    let pairs = PAIRS.iter().find(|(tag, _)| *tag == primary).map_or(&[][..], |(_, pairs)| pairs);
    let words: Vec<String> = phrase.to_lowercase().split_whitespace().map(str::to_owned).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let bare = word.trim_matches(|c: char| !c.is_alphabetic());
        let opposite = |(a, b): &(&'static str, &'static str)| match bare {
            bare if bare == *a => Some(*b),
            bare if bare == *b => Some(*a),
            _ => None,
        };
        for other in pairs.iter().filter_map(opposite) {
            let mut edited = words.clone();
            edited[at] = other.to_owned();
            found.push(edited.join(" "));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_replaced_by_its_opposites() {
        assert_eq!(opposites("Turn on the lamp", "en-us"), ["turn off the lamp"]);
        assert_eq!(opposites("good morning", "en-gb"), ["good evening"]);
        assert_eq!(opposites("Licht an, bitte", "de"), ["licht aus bitte"]);
        assert_eq!(opposites("start up", "en"), ["stop up", "start down"]);
        assert!(opposites("hey computer", "en-us").is_empty() && opposites("turn on", "cmn").is_empty());
    }
}
