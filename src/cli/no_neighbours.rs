//! The settings of neighbours in a build without the feature `neighbours`: none.

use clap::Args;
use serde::de::{Deserialize, Deserializer, Error};

use super::settings::Layer;

/// No settings. The table `[neighbours]` is an error.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct NeighbourArgs {}

impl NeighbourArgs {
    /// Nothing is wrong with them.
    pub fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether there are any: never.
    pub fn is_used(&self) -> bool {
        false
    }
}

impl Layer for NeighbourArgs {
    fn over(self, _below: Self) -> Self {
        self
    }
}

impl<'de> Deserialize<'de> for NeighbourArgs {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("this build has no neighbours; build with --features neighbours (docs/neighbours.md)"))
    }
}
