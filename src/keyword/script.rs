//! Scripts of phrases: the synthesiser says the names of letters that its language is not written in.

/// First and last letter of a script, and the language that is usually meant.
const SCRIPTS: [(char, char, &str); 11] = [
    ('\u{0370}', '\u{03ff}', "el"),
    ('\u{0400}', '\u{052f}', "ru"),
    ('\u{0590}', '\u{05ff}', "he"),
    ('\u{0600}', '\u{06ff}', "ar"),
    ('\u{0900}', '\u{097f}', "hi"),
    ('\u{0e00}', '\u{0e7f}', "th"),
    ('\u{10a0}', '\u{10ff}', "ka"),
    ('\u{3040}', '\u{30ff}', "ja"),
    ('\u{3400}', '\u{4dbf}', HAN),
    ('\u{4e00}', '\u{9fff}', HAN),
    ('\u{ac00}', '\u{d7af}', "ko"),
];
const HAN: &str = "zh";
/// Languages that the synthesiser reads Han characters in. In Japanese it only reads kana.
const READ_HAN: [&str; 3] = ["cmn", "yue", "hak"];
/// Languages with Latin letters.
const LATIN: &str = "af an ca cs cy da de en eo es et eu fi fr ga gd gl hr ht hu ia id io is it jbo ku la lb lfn lt lv mi ms mt nb nci nl no om pap pl pt \
                     py qu ro sk sl sq sv sw tn tr uz vi";

/// The first character of the phrase that is not read in `language`, and the language that its script usually means.
pub(super) fn unread(phrase: &str, language: &str) -> Option<(char, &'static str)> {
    let code = language.split('-').next().unwrap_or_default();
    let latin = LATIN.split_whitespace().any(|latin| latin == code);
    phrase.chars().find_map(|character| {
        let (.., meant) = SCRIPTS.iter().find(|(first, last, _)| (*first..=*last).contains(&character))?;
        let unread = latin || *meant == HAN && !READ_HAN.contains(&code);
        unread.then_some((character, *meant))
    })
}

/// What to do about a script that usually means `language`.
pub(super) fn hint(meant: &str, language: &str) -> String {
    match language {
        "ja" => "write the phrase in kana".to_owned(),
        _ => format!("name the language of the phrase, for example `--language {meant}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_the_language_lacks_is_found() {
        assert_eq!(unread("turn on 你好", "en-us"), Some(('你', "zh")));
        assert_eq!(unread("привет", "de"), Some(('п', "ru")));
        assert_eq!(unread("電気", "ja"), Some(('電', "zh")));
        for (phrase, language) in [
            ("你好", "cmn-latn-pinyin"),
            ("привет", "uk"),
            ("でんき", "ja"),
            ("καλημέρα", "el"),
            ("Öffne die Tür", "de"),
            ("Płomień", "pl"),
        ] {
            assert_eq!(unread(phrase, language), None, "{phrase}");
        }
    }
}
