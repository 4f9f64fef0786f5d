//! `bellis serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use bellis::audio::{AudioError, AudioErrorKind, Source, audio_files};
use bellis::consumer::{HitKind, KeywordObserver, KeywordReport};
use bellis::daemon::events::{Event, EventBus};
use bellis::daemon::{Command, Daemon, DaemonOptions, Enrolment, HttpListener, HttpServer, KeywordAccess, Systemd};
use bellis::engine::Encoder;
use bellis::keyword::Enroller;
use bellis::pack::Pack;
use clap::Args;
use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::consumers::{asked, check_outputs};
use super::keywords::folder;
use super::locate;
use super::reload::Configuration;
use super::run::{check_report, is_page, tell};
use super::services::{self, Reports, Services};
use super::settings::{Input, Settings};
use super::source::{run_options, source};

/// Run as a daemon: reconnection, reload, systemd, metrics
///
/// Processes the microphone without interruption: reopens a lost device, reloads the configuration on SIGHUP, processes all captured
/// audio before it stops on SIGTERM, reports its state to systemd (sd_notify, watchdog), and serves metrics over HTTP.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellis serve --config /etc/bellis/bellis.toml     the command of the systemd service
  bellis serve --consumer jsonl:talk.jsonl          try it in a terminal; Ctrl-C stops
  curl http://127.0.0.1:9475/metrics                metrics for Prometheus
  curl http://127.0.0.1:9475/healthz                200 while audio arrives and is processed
  bellis serve --wyoming tcp://127.0.0.1:10400      wake words for Home Assistant; needs no microphone
  systemctl reload bellis                           apply a changed policy, thresholds and consumers

The default INPUT is the microphone, or `none` if only --wyoming is given. The configuration has the same keys as that of
`bellis run`, and these:
  metrics = \"127.0.0.1:9475\"                        or \"off\"
  priority = 20                                     real-time priority, 1 to 49
  wyoming = \"tcp://127.0.0.1:10400\"                 a Wyoming wake-word service for the enrolled keywords
  wyoming-connections = 8                           its maximum number of connections
  page-token-file = \"/etc/bellis/page-token\"       lets the live page enroll keywords
  [mqtt], voice-assistant, on-detection, on-detection-limit      docs/home-assistant.md
  [neighbours]                                      other machines (docs/neighbours.md)")]
pub struct Serve {
    /// Configuration file (TOML), reloaded on SIGHUP; flags take precedence
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the metrics server, or `off` [default: 127.0.0.1:9475]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Daemon")]
    metrics: Option<String>,
    /// Real-time priority of capture and inference, 1 to 49
    ///
    /// Without permission the daemon logs a warning and continues at normal priority.
    #[arg(long, value_name = "NUMBER", help_heading = "Daemon")]
    priority: Option<u8>,
    /// Address of a Wyoming wake-word service, tcp://ADDRESS:PORT
    #[arg(long, value_name = "URI", help_heading = "Smart home")]
    wyoming: Option<String>,
    /// Maximum number of Wyoming connections, 1 to 1000 [default: 8]
    #[arg(long, value_name = "COUNT", help_heading = "Smart home")]
    wyoming_connections: Option<usize>,
    /// File with the token that lets the live page enroll keywords [default: disabled]
    #[arg(long, value_name = "FILE", help_heading = "Daemon")]
    page_token_file: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Default address of the metrics server.
const METRICS: &str = "127.0.0.1:9475";

impl Serve {
    pub fn run(self) -> anyhow::Result<()> {
        let settings = self.read()?;
        let (command, commands) = commands_from_signals()?;
        let pack = Arc::new(Pack::open(&settings.pack_folder()?)?);
        let policy = settings.policy(&pack)?;
        let mut options = DaemonOptions::new(run_options(&settings, &pack)?);
        let (name, live) = match settings.input() {
            Input::Microphone => (settings.device.clone().unwrap_or_else(|| "microphone".to_owned()), true),
            Input::Stdin => ("standard input".to_owned(), settings.realtime),
            Input::File(path) => (path.display().to_string(), settings.realtime),
            Input::Sample => (String::new(), settings.realtime),
            Input::None => ("no input".to_owned(), true),
        };
        options.reopen = settings.input() == Input::Microphone;
        options.idle = settings.input() == Input::None;
        if options.idle && settings.wyoming.is_none() && !settings.neighbours.is_used() {
            log::warn!("input is \"none\" and no service is configured: nothing will be processed");
        }
        // Everything that another daemon may hold is taken before a file is touched.
        let listener = match address(&settings)? {
            None => None,
            Some(address) => Some(HttpListener::bind(address).with_context(|| {
                format!(
                    "cannot serve metrics on {address}; does another daemon run? (--metrics selects another address, or `off`)"
                )
            })?),
        };
        let encoder = Encoder::load(&pack, &settings.load_options())?;
        let keywords = enrolment(&settings, &pack, &encoder, options.events.clone(), command)?;
        let services = Services::start(&settings, &pack, &encoder, &options.events)?;
        let reports = reports(&options.events, services.muted(), services::need_input(&settings));
        let mut configuration = Configuration::new(settings.clone(), || self.read(), pack.clone(), encoder.clone(), reports);
        let consumers = configuration.consumers()?;
        let adjust = configuration.prepare_neighbours(&settings)?;
        let daemon = Daemon::start_with(&encoder, policy, consumers, options, (&name, live), |session| {
            if let Some(adjust) = adjust {
                adjust(session);
            }
        })?;
        configuration.connect_neighbours(&settings, daemon.status())?;
        let _server = match listener {
            None => None,
            Some(listener) => {
                let server = HttpServer::start(listener, daemon.status().clone(), keywords).context("cannot serve metrics")?;
                log::info!("live page and metrics: http://{}/ and /metrics", server.address());
                Some(server)
            }
        };
        let wanted = Settings { quiet: true, ..settings.clone() };
        let mut systemd = Systemd::from_environment()?;
        let report = daemon.run(move || open(&wanted), &commands, &mut configuration, &mut systemd);
        drop(systemd);
        let told = tell(report, &settings);
        if !settings.quiet {
            configuration.tell_neighbours();
        }
        told
    }

    /// The settings, with the current contents of the file.
    fn read(&self) -> anyhow::Result<Settings> {
        let flags = Settings {
            metrics: self.metrics.clone(),
            priority: self.priority,
            wyoming: self.wyoming.clone(),
            wyoming_connections: self.wyoming_connections,
            page_token_file: self.page_token_file.clone(),
            ..self.settings.clone()
        };
        let mut settings = match &self.config {
            Some(path) => flags.over(Settings::from_file(path)?),
            None => flags,
        };
        // A service for others needs no microphone: one is opened only for a consumer, or on request.
        let other_use = !settings.consumer.is_empty() || settings.device.is_some() || services::need_input(&settings);
        let only_services = services::need_none(&settings) && !other_use;
        settings.input.get_or_insert_with(|| PathBuf::from(if only_services { "none" } else { "mic" }));
        if settings.consumer.is_empty() && services::need_input(&settings) {
            settings.consumer.push("null".into());
        }
        check_report(&settings)?;
        if settings.report.as_deref().is_some_and(is_page) {
            bail!("the report of a daemon is JSON; name it FILE.json, or use the live page");
        }
        // Labels tell consumers apart on reload.
        let labels: Vec<String> = asked(&settings)?.into_iter().map(|one| one.label).collect();
        if let Some((_, twice)) = labels.iter().enumerate().find(|(at, one)| labels[..*at].contains(one)) {
            bail!("consumer `{twice}` is listed twice");
        }
        if address(&settings)?.is_none() && settings.page_token_file.is_some() {
            bail!("page-token-file needs the live page: remove metrics = \"off\"");
        }
        settings.neighbours.check()?;
        settings.channel_pick()?;
        services::check(&settings)?;
        let config: Vec<&Path> = self.config.as_deref().into_iter().collect();
        check_outputs(&settings, &settings.pack_folder()?, &config)?;
        Ok(settings)
    }
}

/// What the live page may change: nothing without a token.
fn enrolment(
    settings: &Settings,
    pack: &Arc<Pack>,
    encoder: &Arc<Encoder>,
    events: Arc<EventBus>,
    command: Sender<Command>,
) -> anyhow::Result<KeywordAccess> {
    let Some(token) = &settings.page_token_file else { return Ok(KeywordAccess::default()) };
    encoder.check_embedding()?;
    let Some(background) = locate::keyword_background() else {
        bail!(
            "the bundled background speech was not found, and page-token-file needs it; run from the repository's root, or install the package"
        );
    };
    let enroller = Enroller::new(pack.clone(), encoder.clone());
    // The daemon reads its keywords again; a closed channel means that it ends.
    let changed = move || {
        let _ = command.send(Command::Refresh);
    };
    let enrolment = Enrolment::new(enroller, folder(settings)?, audio_files(&[background])?, token, events, changed)?;
    Ok(KeywordAccess::from(Arc::new(enrolment)))
}

fn address(settings: &Settings) -> anyhow::Result<Option<SocketAddr>> {
    match settings.metrics.as_deref().unwrap_or(METRICS) {
        "off" => Ok(None),
        text => Ok(Some(
            text.parse()
                .with_context(|| format!("metrics must be an address and port such as {METRICS}, or off, got `{text}`"))?,
        )),
    }
}

/// SIGHUP reloads; SIGTERM and Ctrl-C stop, and a second one of these ends the process.
fn commands_from_signals() -> anyhow::Result<(Sender<Command>, Receiver<Command>)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let other = sender.clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            let command = if signal == SIGHUP { Command::Reload } else { Command::Stop };
            if command == Command::Stop && std::mem::replace(&mut stopping, true) {
                std::process::exit(130);
            }
            if sender.send(command).is_err() {
                return;
            }
        }
    })?;
    Ok((other, receiver))
}

fn open(settings: &Settings) -> Result<Box<dyn Source>, AudioError> {
    source(settings).map_err(|error| {
        error.downcast::<AudioError>().unwrap_or_else(|error| {
            let input = settings.input.as_deref().map_or_else(|| "input".to_owned(), |path| path.display().to_string());
            AudioError::new(AudioErrorKind::Unsupported, input, format!("{error:#}"))
        })
    })
}

/// Publishes what consumers find. With `log`, detections are in the log.
fn reports(events: &Arc<EventBus>, muted: Arc<AtomicBool>, log: bool) -> Reports {
    let bus = events.clone();
    let keywords: KeywordObserver = Arc::new(move |report| match report {
        KeywordReport::Hit(hit) => {
            let muted = muted.load(Ordering::Relaxed);
            if log && hit.kind == HitKind::Detection {
                let ignored = if muted { "; ignored: the voice assistant is muted or active" } else { "" };
                log::info!("keyword `{}` detected, score {:.3}{ignored}", hit.keyword, hit.score);
            }
            bus.publish(Event::keyword(hit, muted));
        }
        KeywordReport::Scores(scores) => bus.publish(Event::Scores(scores)),
        KeywordReport::Names(keywords) => bus.publish(Event::Keywords { keywords }),
        _ => {}
    });
    Reports { keywords, events: events.clone() }
}
