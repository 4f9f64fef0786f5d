//! The consumer's interface, without what the queues do not touch.

use std::sync::Arc;

use crate::stream::Representation;

#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    #[error("closed")]
    Closed,
    #[error("panicked")]
    Panicked,
    #[error("full disk")]
    Full,
}

#[derive(Clone, Copy)]
pub enum OnOverflow {
    DropNewest,
    DropOldest,
    Block,
}

#[derive(Clone, Default)]
pub struct Requirements;

#[derive(Clone, Default)]
pub struct StreamInfo {
    pub live: bool,
}

pub struct ConsumerWork;

pub trait Consumer: Send {
    fn requires(&self) -> Requirements {
        Requirements
    }
    fn count_work(&mut self, _: Arc<ConsumerWork>) {}
    fn begin(&mut self, _: &StreamInfo) -> Result<(), ConsumerError> {
        Ok(())
    }
    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError>;
    fn finish(&mut self) -> Result<(), ConsumerError> {
        Ok(())
    }
    fn on_overflow(&self, live: bool) -> OnOverflow;
}
