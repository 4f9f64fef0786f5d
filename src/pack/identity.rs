//! Whether the units of two packs have the same meaning.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::manifest::StageEntry;
#[cfg(feature = "neighbours")]
use super::manifest::{EncoderSection, Manifest};
use super::{Pack, hex};

impl Pack {
    /// A hash of the meaning of its outputs: the SHA-256 over the hashes of front end, layers, heads, CTC branches and keyword embeddings. Packs
    /// with the same identity give the same units and phones for the same audio; their policies and predictors may differ.
    pub fn identity(&self) -> String {
        let stages = &self.manifest.stages;
        let line = |name: &str, entry: &StageEntry| format!("{name} {}\n", entry.sha256.to_lowercase());
        let numbered = |group: &str, entries: &BTreeMap<String, StageEntry>| {
            let mut entries: Vec<(usize, &StageEntry)> =
                entries.iter().filter_map(|(key, entry)| Some((key.parse().ok()?, entry))).collect();
            entries.sort_unstable_by_key(|(layer, _)| *layer);
            entries.iter().map(|(layer, entry)| line(&format!("{group}.{layer}"), entry)).collect::<String>()
        };
        let optional =
            |name: &str, entry: &Option<StageEntry>| entry.as_ref().map_or_else(String::new, |entry| line(name, entry));
        let text = line("frontend", &stages.frontend)
            + &optional("position", &stages.position)
            + &numbered("layer", &stages.layer)
            + &numbered("head", &stages.head)
            + &numbered("ctc", &stages.ctc)
            + &numbered("embedding", &stages.embedding);
        hex(&Sha256::digest(text))
    }

    /// A hash of everything that machines which compute the same stream must share: the identity, and how the manifest combines the stages.
    #[cfg(feature = "neighbours")]
    pub(crate) fn stream_identity(&self) -> String {
        let Manifest { audio, encoder, ctc, .. } = &self.manifest;
        let EncoderSection { mode, dim, heads, left_context, right_context, feature, frontend_scope, .. } = encoder;
        let encoder = format!(
            "{mode:?} {dim} {heads} {left_context} {right_context} {feature:?} {frontend_scope:?} {:?} {:?}",
            encoder.position, encoder.alibi_slopes
        );
        let text = format!("{} {audio:?} {encoder} {:?}", self.identity(), ctc.as_ref().map(|ctc| &ctc.vocabulary));
        hex(&Sha256::digest(text))
    }
}
