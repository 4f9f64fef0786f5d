//! A consumer without output, for measuring everything else.

use super::{Consumer, ConsumerError};
use crate::stream::Representation;

/// Ignores all representations.
#[derive(Debug, Default)]
pub struct Null;

impl Consumer for Null {
    fn name(&self) -> &str {
        "null"
    }

    fn consume(&mut self, _representation: &Representation) -> Result<(), ConsumerError> {
        Ok(())
    }
}
