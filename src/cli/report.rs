//! `--report`: the summary of a run as JSON, or as a page with the exit layers of its chunks.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bellis::consumer::{Consumer, ConsumerError};
use bellis::drawing::Bar;
use bellis::internal::replace_file;
use bellis::runtime::Summary;
use bellis::stream::Representation;

/// Most chunks on a page: nine hours of daisy-tiny.
const MOST_CHUNKS: usize = 100_000;

/// Collects the exit layers of a page.
#[derive(Clone, Default)]
pub struct Depths(Arc<Mutex<Vec<Bar>>>);

impl Depths {
    /// A collector, if the report at `path` is a page.
    pub fn wanted(path: Option<&Path>) -> Option<Self> {
        super::run::is_page(path?).then(Self::default)
    }

    fn chunks(&self) -> std::sync::MutexGuard<'_, Vec<Bar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the page.
    pub fn write(&self, path: &Path, summary: &Summary, layers: usize) -> anyhow::Result<()> {
        let chunks = self.chunks();
        let mut text = summary.to_string();
        if summary.chunks > chunks.len() as u64 {
            text += &format!("\nThe first {} of {} chunks are drawn.", chunks.len(), summary.chunks);
        }
        let page = bellis::bench::run_page(&summary.source, &text, layers, &chunks);
        replace_file(path, page.as_bytes()).with_context(|| path.display().to_string())
    }
}

impl Consumer for Depths {
    fn name(&self) -> &str {
        "report"
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        let mut chunks = self.chunks();
        if chunks.len() < MOST_CHUNKS {
            let start = chunk.start_seconds();
            chunks.push(Bar { start, end: start + chunk.seconds(), layer: chunk.exit_layer });
        }
        Ok(())
    }
}
