//! The phones of a phrase, from the distribution's speech synthesiser, `espeak-ng`, or takes of it for packs that do not know its phones.
//!
//! The program runs as a child process with arguments, without a shell; the phrase goes to its standard input, and an IPA transcription or a WAV
//! comes from its standard output. A formant synthesiser is robotic, but its variants differ as voices do.

use std::io::{Cursor, ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use super::enroll::Take;
use super::file::Origin;
use super::opposites::opposites;
use super::phones::{MOST_PHONES, Phones};
use super::script;
use super::spelling::spelt;
use crate::audio::{AudioError, ChannelPick, decode_stream_at};
use crate::toml_file::nearest;

/// Program name.
const PROGRAM: &str = "espeak-ng";
/// Longest phrase, characters.
const LONGEST_CHARACTERS: usize = 100;
/// Languages listed in an error, at most.
const LISTED: usize = 8;
/// Voice variants and speeds in words per minute. A variant in `()` replaces the accent instead, if the language has a second one.
const VOICES: [(&str, u32); 5] = [("", 160), ("()", 150), ("+m3", 175), ("+f2", 160), ("+f3", 145)];
/// Languages with a second accent that its speakers also use.
const ACCENTS: [(&str, &str); 6] =
    [("en-us", "en-gb"), ("en-gb", "en-us"), ("es", "es-419"), ("es-419", "es"), ("pt", "pt-br"), ("pt-br", "pt")];
/// Mandarin with its syllables as pinyin; the synthesiser's `cmn` reads them as English letters.
const MANDARIN: &str = "cmn-latn-pinyin";
/// Common names of languages that the synthesiser calls differently.
const ALIASES: [(&str, &str); 4] = [("en", "en-us"), ("fr", "fr-fr"), ("zh", MANDARIN), ("cmn", MANDARIN)];
/// The variant for a language without a second accent.
const OTHER_VARIANT: &str = "+m7";

/// Why a phrase could not be synthesised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SayError {
    /// The synthesiser is not installed.
    #[error("{PROGRAM} was not found, and keywords from text need it; install it: sudo apt install {PROGRAM}")]
    Missing,
    /// The synthesiser cannot be run.
    #[error("cannot run {PROGRAM}")]
    Run(#[source] std::io::Error),
    /// The synthesiser fails.
    #[error("{PROGRAM} failed for the voice `{voice}`: {message}")]
    #[non_exhaustive]
    Failed {
        /// Voice.
        voice: String,
        /// Its error output, or its exit status.
        message: String,
    },
    /// The synthesiser does not know the language.
    #[error("{PROGRAM} has no language `{language}`; {hint}")]
    #[non_exhaustive]
    Language {
        /// Language.
        language: String,
        /// Languages with similar names.
        hint: String,
    },
    /// The phrase is empty, too long, or has control characters.
    #[error("the phrase must have 1 to {LONGEST_CHARACTERS} characters without control characters, got {length}")]
    #[non_exhaustive]
    Phrase {
        /// Number of characters.
        length: usize,
    },
    /// The phrase has too many phones.
    #[error("the phrase is too long: it has {phones} phones, and may have {MOST_PHONES}")]
    #[non_exhaustive]
    Long {
        /// Number of phones.
        phones: usize,
    },
    /// The phrase has no letters or digits.
    #[error("the phrase has no words: only signs or symbols")]
    Words,
    /// The phrase is in a script that the language is not written in: the synthesiser would say the names of its letters.
    #[error("`{character}` cannot be read in the language `{language}`; {hint}")]
    #[non_exhaustive]
    Script {
        /// The first such character.
        character: char,
        /// Language.
        language: String,
        /// What to do.
        hint: String,
    },
    /// The synthesiser's output is not audio.
    #[error(transparent)]
    Audio(#[from] AudioError),
}

/// The synthesiser, for one language.
#[derive(Debug, Clone)]
pub struct Synthesiser {
    language: String,
}

impl Synthesiser {
    /// Checks that the synthesiser is installed and knows `language`, for example `en-us`.
    ///
    /// # Errors
    ///
    /// [`SayError::Missing`], [`SayError::Language`], and those of starting a program.
    pub fn new(language: &str) -> Result<Self, SayError> {
        let language = ALIASES.iter().find(|(alias, _)| *alias == language).map_or(language, |(_, language)| language);
        let known = languages(&String::from_utf8_lossy(&run(&["--voices"], "")?.stdout));
        if known.iter().any(|known| known == language) {
            return Ok(Self { language: language.to_owned() });
        }
        Err(SayError::Language { language: language.to_owned(), hint: hint(language, &known) })
    }

    /// The language, as the synthesiser calls it.
    pub fn language(&self) -> &str {
        &self.language
    }

    /// The voices that speak the phrase.
    pub fn voices(&self) -> Vec<(String, u32)> {
        let voice = |variant: &str| match (variant, self.accent()) {
            ("()", Some(accent)) => accent.to_owned(),
            ("()", None) => format!("{}{OTHER_VARIANT}", self.language),
            _ => format!("{}{variant}", self.language),
        };
        VOICES.iter().map(|(variant, speed)| (voice(variant), *speed)).collect()
    }

    /// One take of `phrase` per voice, at `sample_rate`.
    ///
    /// # Errors
    ///
    /// [`SayError::Phrase`], [`SayError::Words`], [`SayError::Script`], and those of running the synthesiser.
    pub fn takes(&self, phrase: &str, sample_rate: u32) -> Result<Vec<Take>, SayError> {
        self.check(phrase)?;
        let take = |(voice, speed): (String, u32)| {
            let output = run(&["--stdout", "--stdin", "-b", "1", "-s", &speed.to_string(), "-v", &voice], phrase)?;
            if !output.status.success() || output.stdout.is_empty() {
                let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
                let message = if text.is_empty() { output.status.to_string() } else { text };
                return Err(SayError::Failed { voice, message });
            }
            let audio = decode_stream_at(Box::new(Cursor::new(output.stdout)), PROGRAM, ChannelPick::MixDown, sample_rate)?;
            Ok(Take { source: format!("{voice} at {speed} words per minute"), origin: Origin::Synthesis, audio })
        };
        self.voices().into_iter().map(take).collect()
    }

    /// The phones of `phrase` in the classes of `vocabulary`, in the language's own and its other accent, and those of phrases with the opposite
    /// meaning; `None` if most of them are not in the vocabulary.
    ///
    /// # Errors
    ///
    /// [`SayError::Phrase`], [`SayError::Words`], [`SayError::Script`], [`SayError::Long`], and those of running the synthesiser.
    pub fn phones(&self, phrase: &str, vocabulary: &[String]) -> Result<Option<Phones>, SayError> {
        self.check(phrase)?;
        let spell = |text: &str, voice: &str| -> Result<Option<Vec<String>>, SayError> {
            let output = run(&["-q", "--ipa", "--sep=_", "--stdin", "-b", "1", "-v", voice], text)?;
            Ok(spelt(&String::from_utf8_lossy(&output.stdout), voice, vocabulary))
        };
        let Some(own) = spell(phrase, &self.language)? else { return Ok(None) };
        if own.len() > MOST_PHONES {
            return Err(SayError::Long { phones: own.len() });
        }
        let (mut pronunciations, mut near) = (vec![own], Vec::new());
        let voices = || std::iter::once(self.language.as_str()).chain(self.accent());
        for voice in voices().skip(1) {
            let other = spell(phrase, voice)?.filter(|other| other.len() <= MOST_PHONES && !pronunciations.contains(other));
            pronunciations.extend(other);
        }
        for opposite in opposites(phrase, &self.language) {
            for voice in voices() {
                let phones = spell(&opposite, voice)?.filter(|phones| !pronunciations.contains(phones) && !near.contains(phones));
                near.extend(phones);
            }
        }
        Ok(Some(Phones { phrase: pronunciations, near }))
    }

    fn check(&self, phrase: &str) -> Result<(), SayError> {
        let length = phrase.chars().count();
        if phrase.trim().is_empty() || length > LONGEST_CHARACTERS || phrase.contains(char::is_control) {
            return Err(SayError::Phrase { length });
        }
        if !phrase.contains(char::is_alphanumeric) {
            return Err(SayError::Words);
        }
        match script::unread(phrase, &self.language) {
            Some((character, meant)) => {
                let hint = script::hint(meant, &self.language);
                Err(SayError::Script { character, language: self.language.clone(), hint })
            }
            None => Ok(()),
        }
    }

    /// The language's other accent.
    fn accent(&self) -> Option<&'static str> {
        ACCENTS.iter().find(|(language, _)| *language == self.language).map(|(_, accent)| *accent)
    }
}

/// Runs the synthesiser with `text` on its standard input.
fn run(arguments: &[&str], text: &str) -> Result<Output, SayError> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => SayError::Missing,
        _ => SayError::Run(error),
    };
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A phrase fits into the pipe, so this never waits. A closed pipe is reported by the exit status.
        let _ = input.write_all(text.as_bytes());
    }
    child.wait_with_output().map_err(failed)
}

/// The language column of `espeak-ng --voices`.
fn languages(list: &str) -> Vec<String> {
    list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect()
}

/// Languages near the unknown one: those with its primary subtag, or the one with the most similar name.
fn hint(language: &str, known: &[String]) -> String {
    let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_owned();
    let mut near: Vec<&str> =
        known.iter().map(String::as_str).filter(|known| primary(known) == primary(&language.to_lowercase())).collect();
    near.truncate(LISTED);
    if near.is_empty() {
        near.extend(
            nearest(language, known.iter().map(String::as_str))
                .and_then(|near| known.iter().find(|known| **known == near))
                .map(String::as_str),
        );
    }
    match near[..] {
        [] => format!("`{PROGRAM} --voices` lists its languages"),
        _ => format!("did you mean {}?", near.iter().map(|near| format!("`{near}`")).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Pty Language       Age/Gender VoiceName          File                 Other Languages
 5  en-gb           --/M      English_(Great_Britain) gmw/en               (en 2)
 2  en-us           --/M      English_(America)  gmw/en-US            (en 3)
 5  cmn             --/M      Chinese_(Mandarin) sit/cmn              (zh-cmn 5)(zh 5)
";

    #[test]
    fn languages_are_the_second_column() {
        assert_eq!(languages(LIST), ["en-gb", "en-us", "cmn"]);
        assert!(languages("").is_empty());
    }

    #[test]
    fn an_unknown_language_names_those_near_it() {
        let known = languages(LIST);
        assert_eq!(hint("en-au", &known), "did you mean `en-gb`, `en-us`?");
        assert_eq!(hint("cnm", &known), "did you mean `cmn`?");
        assert_eq!(hint("xxxxxxxx", &known), "`espeak-ng --voices` lists its languages");
    }

    #[test]
    fn a_second_accent_replaces_a_variant() {
        let voices = |language: &str| {
            Synthesiser { language: language.to_owned() }.voices().into_iter().map(|(voice, _)| voice).collect::<Vec<_>>()
        };
        assert_eq!(voices("en-us"), ["en-us", "en-gb", "en-us+m3", "en-us+f2", "en-us+f3"]);
        assert_eq!(voices("de"), ["de", "de+m7", "de+m3", "de+f2", "de+f3"]);
    }
}
