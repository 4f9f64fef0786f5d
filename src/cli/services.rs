//! The services of `bellis serve` besides its metrics.

use std::sync::Arc;

use bellis::engine::Encoder;
use bellis::pack::Pack;

use super::settings::Settings;

#[cfg(feature = "home")]
pub use home::start;

/// Refuses the settings of services that this build lacks.
#[cfg(not(feature = "home"))]
pub fn start(settings: &Settings, _: &Arc<Pack>, _: &Arc<Encoder>) -> anyhow::Result<()> {
    match settings.wyoming {
        None => Ok(()),
        Some(_) => anyhow::bail!("this build of bellis has no Wyoming service; build it with the feature `home`"),
    }
}

#[cfg(feature = "home")]
mod home {
    use anyhow::bail;
    use bellis::daemon::home::{Enrolled, Model, WyomingOptions, WyomingServer};
    use bellis::keyword::PackRef;

    use super::*;
    use crate::cli::keywords::{folder, search_options};

    /// Maximum of `wyoming-connections`.
    const CONNECTIONS: usize = 1000;

    /// The running services; they end when this value is dropped.
    pub struct Services {
        _wyoming: Option<WyomingServer>,
    }

    /// Starts the configured services.
    pub fn start(settings: &Settings, pack: &Arc<Pack>, encoder: &Arc<Encoder>) -> anyhow::Result<Services> {
        Ok(Services { _wyoming: settings.wyoming.as_deref().map(|uri| wyoming(uri, settings, pack, encoder)).transpose()? })
    }

    fn wyoming(uri: &str, settings: &Settings, pack: &Arc<Pack>, encoder: &Arc<Encoder>) -> anyhow::Result<WyomingServer> {
        let mut options = WyomingOptions::default();
        if let Some(connections) = settings.wyoming_connections {
            if !(1..=CONNECTIONS).contains(&connections) {
                bail!("wyoming-connections must be between 1 and {CONNECTIONS}, got {connections}");
            }
            options.connections = connections;
        }
        encoder.check_embedding()?;
        let audio = encoder.audio();
        let hop_ms = audio.hop as f64 * 1e3 / f64::from(audio.sample_rate);
        let model = Model {
            encoder: encoder.clone(),
            pack: pack.clone(),
            policy: settings.policy_spec(),
            chunk_frames: settings.chunk_frames(hop_ms, pack.default_chunk_frames())?,
            search: search_options(settings)?,
        };
        let enrolled = Enrolled::new(&folder(settings)?, PackRef::to(pack));
        let server = WyomingServer::start(&uri.parse()?, model, enrolled, &options)?;
        log::info!("wyoming: tcp://{}, keywords of {}", server.address(), folder(settings)?.display());
        Ok(server)
    }
}
