//! The answer to `describe`: one wake-word program whose models are the enrolled keywords.

use serde_json::{Value, json};

use super::message::Message;
use crate::keyword::Keyword;

/// The spoken phrase of a keyword: as enrolled from text, or its name as words.
fn phrase(keyword: &Keyword) -> String {
    keyword.say.as_ref().map_or_else(|| keyword.name.replace(['_', '-'], " "), |say| say.phrase.clone())
}

/// The language of a keyword's phrase; recordings have none.
fn languages(keyword: &Keyword) -> Vec<&str> {
    keyword.say.iter().map(|say| say.language.as_str()).collect()
}

/// `info` with these keywords.
pub fn info<'a>(keywords: impl Iterator<Item = &'a Keyword>) -> Message {
    let ours = json!({"name": "Bellis", "url": env!("CARGO_PKG_REPOSITORY")});
    let models: Vec<Value> = keywords
        .map(|keyword| {
            json!({
                "name": keyword.name,
                "phrase": phrase(keyword),
                "description": phrase(keyword),
                "languages": languages(keyword),
                "attribution": ours,
                "installed": true,
                "version": null,
            })
        })
        .collect();
    let wake = json!([{
        "name": "bellis",
        "description": "Keywords enrolled from text or recordings",
        "version": env!("CARGO_PKG_VERSION"),
        "attribution": ours,
        "installed": true,
        "models": models,
    }]);
    let data = json!({"asr": [], "tts": [], "handle": [], "intent": [], "wake": wake, "mic": [], "snd": []});
    Message::new("info", data)
}
