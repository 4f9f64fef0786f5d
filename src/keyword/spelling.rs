//! Spelling of the synthesiser's IPA transcriptions in the classes of a pack.

/// IPA symbols that the vocabulary may not have, and phones to use instead, in order of preference: the first one is the one that
/// the bundled packs were trained on (`models/train/inventory.py`).
const SPELLINGS: [(&str, &[&str]); 55] = [
    ("tʃ", &["t͡ʃ"]),
    ("dʒ", &["d͡ʒ"]),
    ("ts", &["t͡s"]),
    ("tɕ", &["t͡ʃ"]),
    ("dʑ", &["d͡ʒ"]),
    ("dz", &["z"]),
    ("r", &["ɹ", "ʁ"]),
    ("ɾ", &["ɹ"]),
    ("ʁ", &["ɹ"]),
    ("ɻ", &["ɹ"]),
    ("ɡ", &["g"]),
    ("ɣ", &["g"]),
    ("ɟ", &["d͡ʒ"]),
    ("c", &["t͡ʃ"]),
    ("ɜ", &["ɝ", "ə"]),
    ("ɚ", &["ɝ", "ə"]),
    ("ɐ", &["ə", "ʌ"]),
    ("ɵ", &["ə"]),
    ("ᵻ", &["ɪ"]),
    ("ɒ", &["ɑ", "ɔ"]),
    ("əʊ", &["oʊ"]),
    ("x", &["h"]),
    ("χ", &["x", "h"]),
    ("ç", &["x", "ʃ"]),
    ("ħ", &["h"]),
    ("ɦ", &["h"]),
    ("y", &["i", "u"]),
    ("ʏ", &["y", "i"]),
    ("ʉ", &["u"]),
    ("ɯ", &["ɨ", "u"]),
    ("ɨ", &["ɪ"]),
    ("ø", &["e"]),
    ("œ", &["ø", "ɛ"]),
    ("ɐ\u{303}", &["ɑ\u{303}"]),
    ("a\u{303}", &["ɑ\u{303}"]),
    ("o\u{303}", &["ɔ\u{303}"]),
    ("e\u{303}", &["ɛ\u{303}"]),
    ("œ\u{303}", &["ɛ\u{303}"]),
    ("β", &["b"]),
    ("ʋ", &["v"]),
    ("ɸ", &["f"]),
    ("ɫ", &["l"]),
    ("ɭ", &["l"]),
    ("ʎ", &["j", "l"]),
    ("ʝ", &["j"]),
    ("ɥ", &["w"]),
    ("ɲ", &["n"]),
    ("ɳ", &["n"]),
    ("ʈ", &["t"]),
    ("ɖ", &["d"]),
    ("ʂ", &["ʃ"]),
    ("ɕ", &["ʃ"]),
    ("ʐ", &["ʒ", "ʃ"]),
    ("ʑ", &["ʒ", "ʃ"]),
    ("ʒ", &["ʃ"]),
];
/// English vowels that the synthesiser writes with the symbols of other ones: "door" is d o ɹ.
const ENGLISH: [(&str, &[&str]); 3] = [("a", &["æ"]), ("o", &["ɔ"]), ("e", &["ɛ"])];
/// Mandarin, whose stops differ in aspiration: those without are the voiced ones of other languages. Both tables give the classes of a symbol in order.
const MANDARIN: [(&str, &[&str]); 42] = [
    ("ph", &["p"]),
    ("th", &["t"]),
    ("kh", &["k"]),
    ("tsh", &["t͡s"]),
    ("ts.h", &["t͡ʃ"]),
    ("tɕh", &["t͡ʃ"]),
    ("p", &["b"]),
    ("t", &["d"]),
    ("k", &["g"]),
    ("ts", &["t͡s"]),
    ("ts.", &["d͡ʒ"]),
    ("tɕ", &["d͡ʒ"]),
    ("s.", &["ʃ"]),
    ("ɕ", &["ʃ"]),
    ("ʐ", &["ɹ"]),
    ("χ", &["x"]),
    ("o-", &["ə"]),
    ("i.", &["ɨ"]),
    ("i\u{32a}", &["ɨ"]),
    ("ər", &["ɝ"]),
    ("ɑ", &["a"]),
    ("ɛ", &["e"]),
    ("æ", &["e"]),
    ("ji", &["i"]),
    ("jiɑ", &["j", "a"]),
    ("jiɛ", &["j", "e"]),
    ("jiou", &["j", "o", "u"]),
    ("wu", &["u"]),
    ("wuə", &["w", "ə"]),
    ("onɡ", &["ʊ", "ŋ"]),
    ("yŋ", &["j", "ʊ", "ŋ"]),
    ("yu", &["j", "ʊ"]),
    ("yə", &["y"]),
    ("yi", &["y"]),
    ("yɛ", &["w", "e"]),
    ("yæ", &["w", "e"]),
    ("iɑ", &["j", "a"]),
    ("iɛ", &["j", "e"]),
    ("iou", &["j", "o", "u"]),
    ("ua", &["w", "a"]),
    ("uə", &["w", "ə"]),
    ("uei", &["w", "e", "i"]),
];
/// Least share of a transcription's symbols that must be in the vocabulary.
const LEAST_SPELT: f64 = 0.9;

/// A nasal vowel's mark.
const NASAL: char = '\u{303}';

/// Marks of stress, length and liaison, and the joiner within affricates.
const MARKS: &str = "ˈˌːˑ-\u{200d}\u{32a}ʲ";
/// Marks of stress and tone in Mandarin, where ɜ is the third tone, and the border between the phones of a syllable.
const MANDARIN_MARKS: &str = "ˈˌʲ_12345ɜ\u{200d}";

/// An IPA transcription, with `_` between phones, in the classes of `vocabulary`: for each phone the longest classes that fit. Marks of
/// stress, length, tone and liaison are left out, and nasal vowels that the vocabulary lacks are spelt as oral ones. `None` if
/// too few symbols are in the vocabulary.
pub(super) fn spelt(ipa: &str, language: &str, vocabulary: &[String]) -> Option<Vec<String>> {
    let code = language.split('-').next();
    let (own, marks): (&[(&str, &[&str])], _) = match code {
        Some("en") => (&ENGLISH, MARKS),
        Some("cmn") => (&MANDARIN, MANDARIN_MARKS),
        _ => (&[], MARKS),
    };
    let ipa = without_language_marks(ipa);
    let ipa = if code == Some("de") { german(&ipa) } else { ipa };
    let text: String = ipa.chars().filter(|c| !marks.contains(*c)).collect();
    let known = |class: &&str| vocabulary.iter().any(|known| known == class);
    let longest = |rest: &str| {
        let classes =
            vocabulary.iter().map(String::as_str).filter(|class| rest.starts_with(class)).map(|class| (class, vec![class]));
        let respelt = SPELLINGS.iter().filter(|(symbol, _)| rest.starts_with(symbol));
        let respelt = respelt.filter_map(|(symbol, classes)| Some((*symbol, vec![*classes.iter().find(|class| known(class))?])));
        let own = own.iter().filter(|(symbol, classes)| rest.starts_with(symbol) && classes.iter().all(known));
        let own = own.map(|(symbol, classes)| (*symbol, classes.to_vec()));
        // Of equally long ones the last counts.
        respelt.chain(classes).chain(own).map(|(symbol, classes)| (symbol.len(), classes)).max_by_key(|(length, _)| *length)
    };
    let (mut phones, mut unknown) = (Vec::new(), 0);
    for mut rest in text.split(|c: char| c == '_' || c.is_whitespace()) {
        while let Some(first) = rest.chars().next() {
            if let Some((length, classes)) = longest(rest) {
                phones.extend(classes.into_iter().map(str::to_owned));
                rest = &rest[length..];
            } else {
                unknown += usize::from(first != NASAL);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    let share = phones.len() as f64 / (phones.len() + unknown).max(1) as f64;
    Some(phones).filter(|phones| !phones.is_empty() && share >= LEAST_SPELT)
}

/// The synthesiser's German as pronounced: an r before a vowel is uvular, others and that of -er are vowels. It writes "ur" as ??.
fn german(ipa: &str) -> String {
    let ipa = ipa.replace("??", "ʊɐ");
    let mut said = String::with_capacity(ipa.len());
    for (at, c) in ipa.char_indices() {
        let next = ipa[at + c.len_utf8()..].chars().find(|next| !"_ˈˌ\u{200d}".contains(*next));
        said.push(match c {
            'r' | 'ɾ' if next.is_some_and(|next| "aeiouyɑɐəɛɜɪɔʊʏœøæ".contains(next)) => 'ʁ',
            'r' | 'ɾ' | 'ɜ' => 'ɐ',
            c => c,
        });
    }
    said
}

/// The transcription without `(en)` and the like before words that are read in another language.
fn without_language_marks(ipa: &str) -> String {
    let (first, rest) = ipa.split_once('(').unwrap_or((ipa, ""));
    let rest = rest.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcription_is_spelt_in_the_vocabulary() {
        let vocabulary =
            ["t", "ʃ", "t͡ʃ", "ɪ", "k", "ə", "n", "ɝ", "oʊ", "o", "s", "t͡s", "ɔ", "ɔ̃", "ɛ", "r", "ɹ", "l"].map(str::to_owned);
        let phones = |ipa: &str| spelt(ipa, "it", &vocabulary).map(|phones| phones.join(" "));
        assert_eq!(phones("k_ˈɪ_tʃ_ə_n\n").as_deref(), Some("k ɪ t͡ʃ ə n"));
        assert_eq!(phones("t_ˈɜː_n ˌoʊ").as_deref(), Some("t ɝ n oʊ"));
        assert_eq!(phones("ts_ɔ_t_s").as_deref(), Some("t͡s ɔ t s"));
        assert_eq!(phones("t_ɔ̃ t_ɛ̃").as_deref(), Some("t ɔ̃ t ɛ"));
        assert_eq!(phones("r_ɾ_ɹ_ɕ").as_deref(), Some("r ɹ ɹ ʃ"));
        assert_eq!(phones("t_o").as_deref(), Some("t o"));
        assert_eq!(phones("l_ə- n_œ\u{303} k_o\u{303}").as_deref(), Some("l ə n ɛ k ɔ\u{303}"));
        assert_eq!(spelt("t_o_s_oʊ", "en-gb", &vocabulary), Some(["t", "ɔ", "s", "oʊ"].map(str::to_owned).to_vec()));
        assert_eq!(phones("(en)_t_ɪ_n(de) k_o").as_deref(), Some("t ɪ n k o"));
        assert_eq!((phones("ǀ_ǀ_ǀ_k_n"), phones("")), (None, None));
    }

    #[test]
    fn german_has_no_r_after_vowels() {
        let vocabulary = "g ʊ ə k ʁ a t f ɑ".split(' ').map(str::to_owned).collect::<Vec<_>>();
        let phones = |ipa: &str| spelt(ipa, "de", &vocabulary).map(|phones| phones.join(" "));
        // As `espeak-ng` 1.51 reads Gurke and Radfahrer.
        assert_eq!(phones("ɡ_ˈ??_k_ə").as_deref(), Some("g ʊ ə k ə"));
        assert_eq!(phones("r_ˈa_t_f_ˌɑː_r_ɜ").as_deref(), Some("ʁ a t f ɑ ʁ ə"));
        assert_eq!(phones("ɾ a").as_deref(), Some("ə a"), "a vowel of the next word");
    }

    #[test]
    fn mandarin_keeps_its_aspiration() {
        let vocabulary =
            "d t g k a i u p b t͡ʃ d͡ʒ t͡s ʃ ɨ ə ʊ ŋ o e w j ɹ x y n l ɝ s".split(' ').map(str::to_owned).collect::<Vec<_>>();
        let phones = |ipa: &str| spelt(ipa, "cmn-latn-pinyin", &vocabulary).map(|phones| phones.join(" "));
        // As `espeak-ng` 1.51 reads 打开厨房的灯.
        let lamp = "t_ˈɑ2_ k\u{200d}h_ˈai5_ ts.h_ˈuɜ_ f_ˈaɜ_ŋ_ t_ə1_ t_ˈə5_ŋ_";
        assert_eq!(phones(lamp).as_deref(), Some("d a k a i t͡ʃ u a ŋ d ə d ə ŋ"));
        // 用, 九, 学, 四, 中, 夜, 云, 困
        let words = "ˈyu5_ŋ_ tɕ_ˈiou2_ ɕ_ˈyɛɜ_ s_ˈi\u{32a}5_ ts._ˈonɡ5_ j_ˈiɛ5_ ʲ_ˈyəɜ_n_ kh_w_ˈuə5_n_";
        assert_eq!(phones(words).as_deref(), Some("j ʊ ŋ d͡ʒ j o u ʃ w e s ɨ d͡ʒ ʊ ŋ j e y n k w ə n"));
    }
}
