//! The keywords of a folder in one stream of audio at any rate: what bindings offer.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{KeywordError, PackRef, find, load};
use super::verification::Verifier;
use super::watch::{Detection, KeywordSearch, SearchError, SearchOptions, Watched, usable};
use crate::audio::{AudioError, Resampler};
use crate::engine::{Encoder, EngineError};
use crate::exit::{PolicyError, PolicySpec};
use crate::pack::Pack;
use crate::stream::{Session, SessionError};

/// Why keywords cannot be searched for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeywordStreamError {
    /// A keyword cannot be used.
    #[error(transparent)]
    Keyword(#[from] KeywordError),
    /// The policy does not fit the pack.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The pack lacks what keywords need.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The rate is not possible.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// A chunk cannot be computed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A chunk cannot be searched.
    #[error(transparent)]
    Search(#[from] SearchError),
}

/// Searches one stream for the keywords of a folder.
pub struct KeywordStream {
    resampler: Resampler,
    session: Session,
    search: KeywordSearch,
    names: Vec<String>,
    resampled: Vec<f32>,
    pack_rate: f64,
}

impl KeywordStream {
    /// A stream of mono audio at `rate` Hz, searched for the keywords that are in `folder` now. An absent or empty folder has none. Keywords that
    /// cannot be read or are of another pack are skipped, with a line in the log.
    ///
    /// # Errors
    ///
    /// If none of the keywords can be used, and for a rate that is out of range.
    pub fn new(
        pack: &Pack,
        encoder: &Arc<Encoder>,
        policy: &PolicySpec,
        folder: &Path,
        options: &SearchOptions,
        rate: u32,
    ) -> Result<Self, KeywordStreamError> {
        let (audio, chunk_frames) = (encoder.audio(), pack.default_chunk_frames());
        let reference = PackRef::to(pack);
        let files = match find(folder) {
            Err(KeywordError::NoKeywords { .. }) => Vec::new(),
            Err(KeywordError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
            files => files?,
        };
        let read = |file: &PathBuf| Watched::new_or_fixed(&load(file, Some(&reference))?, file, options, encoder);
        let watched = usable(files.iter().map(read))?;
        let names = watched.iter().map(|one| one.name.clone()).collect();
        let mut search = KeywordSearch::new(watched, Some(Verifier::new(encoder, chunk_frames)?));
        search.begin(audio.hop, chunk_frames);
        let session = Session::new(encoder, policy.build(pack)?, search.session_options(chunk_frames))?;
        let resampler = Resampler::new(rate, audio.sample_rate)?;
        Ok(Self { resampler, session, search, names, resampled: Vec::new(), pack_rate: f64::from(audio.sample_rate) })
    }

    /// Names of the keywords.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Rate of the positions in detections, Hz.
    pub fn position_rate(&self) -> f64 {
        self.pack_rate
    }

    /// Adds samples; `each` receives what was found in the chunks that they complete.
    ///
    /// # Errors
    ///
    /// A chunk that cannot be computed or searched.
    pub fn push(&mut self, samples: &[f32], each: impl FnMut(Detection<'_>)) -> Result<(), KeywordStreamError> {
        self.resampled.clear();
        self.resampler.push(samples, &mut self.resampled);
        self.compute(false, each)
    }

    /// Ends the stream; `each` receives what was pending.
    ///
    /// # Errors
    ///
    /// A chunk that cannot be computed or searched.
    pub fn finish(&mut self, each: impl FnMut(Detection<'_>)) -> Result<(), KeywordStreamError> {
        self.resampled.clear();
        self.resampler.finish(&mut self.resampled);
        self.compute(true, each)
    }

    fn compute(&mut self, ends: bool, mut each: impl FnMut(Detection<'_>)) -> Result<(), KeywordStreamError> {
        let Self { session, search, resampled, .. } = self;
        let mut each = |found: Detection<'_>| {
            each(found);
            Ok::<_, KeywordStreamError>(())
        };
        session.push(resampled)?;
        if ends {
            session.finish();
        }
        session.each(|chunk| search.search(chunk, &mut each))?;
        if ends {
            search.end(&mut each)?;
        }
        Ok(())
    }
}
