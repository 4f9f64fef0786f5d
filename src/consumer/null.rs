//! A consumer that does nothing: to measure all the rest.

use super::{Consumer, ConsumerError};
use crate::stream::Representation;

/// Takes every representation and does nothing with it.
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
