//! Reload of the configuration of `bellis serve`. Everything is prepared first; nothing is renamed, created or replaced before the whole
//! configuration is known to be valid.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bellis::consumer::{Consumer, ConsumerError, ConsumerSpec, ConsumerWork, OnOverflow, Requirements, StreamInfo};
use bellis::daemon::{Prepared, Reload, Reloader, Status};
use bellis::engine::Encoder;
use bellis::pack::Pack;
use bellis::runtime::{Adjust, NamedConsumer};
use bellis::stream::Representation;

use super::consumers::{Asked, Service, asked, check_outputs, create_file, one, output_paths};
use super::files::{FileId, check_unclaimed, check_writable, identity, set_aside};
use super::keywords;
#[cfg(feature = "neighbours")]
use super::neighbours::Node;
use super::services::{self, Reports};
use super::settings::Settings;
use super::source::run_options;

/// Files and folders of the running consumers with their paths, by label.
type OpenFiles = Arc<Mutex<HashMap<String, Vec<(PathBuf, FileId)>>>>;
/// Keywords that the running consumers search for, with the times of their files, by label.
type ReadKeywords = Arc<Mutex<HashMap<String, KeywordState>>>;
type KeywordState = Vec<(PathBuf, Option<SystemTime>)>;

/// The configuration in effect, and what consumers are made of.
pub struct Configuration<R> {
    /// Reads the settings.
    read: R,
    /// The settings in effect. Those that require a restart are as they were at the start.
    current: Settings,
    /// The settings that were prepared last.
    prepared: Option<Settings>,
    pack: Arc<Pack>,
    encoder: Arc<Encoder>,
    reports: Reports,
    open: OpenFiles,
    #[cfg(feature = "neighbours")]
    node: Node,
    status: Option<Arc<Status>>,
    searched: ReadKeywords,
    /// The keywords when they were last looked at, by label.
    seen: HashMap<String, KeywordState>,
}

impl<R: FnMut() -> anyhow::Result<Settings>> Configuration<R> {
    /// The configuration at the start.
    pub fn new(current: Settings, read: R, pack: Arc<Pack>, encoder: Arc<Encoder>, reports: Reports) -> Self {
        Self {
            read,
            current,
            prepared: None,
            #[cfg(feature = "neighbours")]
            node: Node::new(pack.clone(), encoder.clone()),
            pack,
            encoder,
            reports,
            open: OpenFiles::default(),
            status: None,
            searched: ReadKeywords::default(),
            seen: HashMap::new(),
        }
    }

    /// What the session needs to let chunks continue on neighbours, without a connection yet.
    #[cfg(feature = "neighbours")]
    pub fn prepare_neighbours(&mut self, wanted: &Settings) -> anyhow::Result<Option<Adjust>> {
        let source = self.node.source(&wanted.neighbours, &wanted.policy_spec())?;
        Ok(source.map(|source| -> Adjust { Box::new(move |session| source.attach(session)) }))
    }

    /// Connects to the neighbours of `wanted`, and shows them in `status`.
    #[cfg(feature = "neighbours")]
    pub fn connect_neighbours(&mut self, wanted: &Settings, status: &Arc<Status>) -> anyhow::Result<()> {
        self.status = Some(status.clone());
        if wanted.neighbours.is_used() {
            status.set_neighbours(self.node.roster().clone());
        }
        self.node.connect(&wanted.neighbours)
    }

    /// Prints what was computed where, if neighbours were ever configured.
    #[cfg(feature = "neighbours")]
    pub fn tell_neighbours(&self) {
        if let Some(status) = &self.status
            && let Some(roster) = status.neighbours()
        {
            super::neighbours::tell(roster, &status.counters().exits());
        }
    }

    /// Nothing: this build has no neighbours.
    #[cfg(not(feature = "neighbours"))]
    pub fn tell_neighbours(&self) {}

    /// Nothing: this build has no neighbours.
    #[cfg(not(feature = "neighbours"))]
    pub fn prepare_neighbours(&mut self, _wanted: &Settings) -> anyhow::Result<Option<Adjust>> {
        Ok(None)
    }

    /// Nothing: this build has no neighbours.
    #[cfg(not(feature = "neighbours"))]
    pub fn connect_neighbours(&mut self, _wanted: &Settings, status: &Arc<Status>) -> anyhow::Result<()> {
        self.status = Some(status.clone());
        Ok(())
    }

    /// The consumers at the start. Their existing files are renamed at once, so that one that cannot be written is reported at once.
    pub fn consumers(&self) -> anyhow::Result<Vec<NamedConsumer>> {
        let asked = wanted_consumers(&self.current)?;
        let outputs: Arc<[PathBuf]> = output_paths(&self.current, &asked).into();
        let made = asked.iter().map(|one| self.consumer(one, &self.current, &outputs)).collect::<anyhow::Result<_>>()?;
        // No file is renamed before all outputs are known to be usable.
        asked.iter().try_for_each(|one| check_writable(&one.spec))?;
        asked.iter().try_for_each(|one| check_unclaimed(&one.spec))?;
        for Asked { spec, .. } in &asked {
            set_aside(spec, &outputs)?;
            create_file(spec)?;
        }
        Ok(made)
    }

    fn consumer(&self, asked: &Asked, settings: &Settings, outputs: &Arc<[PathBuf]>) -> anyhow::Result<NamedConsumer> {
        let keywords = keyword_state(&asked.spec, settings);
        let inner = match services::consumer(asked, settings, &self.pack, &self.encoder, &self.reports)? {
            Some(consumer) => consumer,
            None => {
                let service = Service { observer: &self.reports.keywords, runs: self.status.is_some() };
                one(asked, settings, &self.pack, &self.encoder, Some(service))?
            }
        };
        let (open, searched) = (self.open.clone(), self.searched.clone());
        let output = Output { asked: asked.clone(), outputs: outputs.clone(), inner, open, keywords, searched };
        Ok(NamedConsumer { label: asked.label.clone(), consumer: Box::new(output) })
    }

    fn changes(&mut self, running: &[String]) -> anyhow::Result<Reload> {
        let wanted = (self.read)()?;
        self.changes_to(wanted, running)
    }

    fn changes_to(&mut self, wanted: Settings, running: &[String]) -> anyhow::Result<Reload> {
        // What a restart would refuse is refused now.
        let chunk = run_options(&wanted, &self.pack)?.session.chunk_frames;
        chunk.map_or(Ok(()), |frames| self.encoder.check_chunk(frames))?;
        let kept = wanted.changes_for_a_restart(&self.current);
        let wanted = wanted.with_restart_keys_of(&self.current);
        // The input and the report may be others than in the file.
        check_outputs(&wanted, &wanted.pack_folder()?, &[])?;
        let service_keeps = services::needs_restart(&self.current, &wanted);
        let same = wanted.of_consumers() == self.current.of_consumers();
        let stays =
            |one: &Asked| same && running.contains(&one.label) && self.has_its_files(one) && self.has_its_keywords(one, &wanted);
        let (stay, fresh) = wanted_consumers(&wanted)?.into_iter().partition(stays);
        let reload = self.changes_of(wanted, stay, fresh)?;
        if !kept.is_empty() {
            log::warn!("changes to {} require a restart; all other changes are applied", kept.join(", "));
        }
        if service_keeps {
            log::warn!("wyoming keeps its policy and its keyword settings until a restart");
        }
        Ok(reload)
    }

    /// Prepares `wanted`: consumers that stay, and those that begin.
    fn changes_of(&mut self, wanted: Settings, stay: Vec<Asked>, fresh: Vec<Asked>) -> anyhow::Result<Reload> {
        let policy = wanted.policy(&self.pack)?;
        let session = run_options(&wanted, &self.pack)?.session;
        let outputs: Arc<[PathBuf]> = output_paths(&wanted, stay.iter().chain(&fresh)).into();
        let keep = stay.into_iter().map(|one| one.label).collect();
        fresh.iter().try_for_each(|one| check_writable(&one.spec))?;
        fresh.iter().filter(|one| !self.writes(one)).try_for_each(|one| check_unclaimed(&one.spec))?;
        let join = fresh.iter().map(|one| self.consumer(one, &wanted, &outputs)).collect::<anyhow::Result<_>>()?;
        // Another source would not know what the present one has sent.
        let same = wanted.neighbours == self.current.neighbours && wanted.policy_spec() == self.current.policy_spec();
        let adjust = if same { None } else { self.prepare_neighbours(&wanted)? };
        self.prepared = Some(wanted);
        Ok(Reload { policy, session, keep, join, adjust })
    }

    /// Whether the files that a consumer writes are still at their paths: log rotation moves them, and may create others in their place.
    fn has_its_files(&self, asked: &Asked) -> bool {
        // One that has not begun yet will open them.
        locked(&self.open).get(&asked.label).is_none_or(|open| open.iter().all(|(path, id)| identity(path) == Some(*id)))
    }
}

impl<R> Configuration<R> {
    /// Whether a running consumer writes the file or folder.
    fn writes(&self, asked: &Asked) -> bool {
        let open = locked(&self.open);
        asked.spec.path().and_then(identity).is_some_and(|id| open.values().flatten().any(|(_, open)| *open == id))
    }

    /// Whether no keyword was enrolled, changed or removed since a consumer read them.
    fn has_its_keywords(&self, asked: &Asked, wanted: &Settings) -> bool {
        let searched = locked(&self.searched);
        searched.get(&asked.label).is_none_or(|read| keyword_state(&asked.spec, wanted).as_ref() == Some(read))
    }
}

/// The consumers of the configuration, and those that services need.
fn wanted_consumers(settings: &Settings) -> anyhow::Result<Vec<Asked>> {
    let asked = asked(settings)?;
    let more = services::consumers(settings, &asked);
    Ok(asked.into_iter().chain(more).collect())
}

/// The state of the keywords that a consumer searches for; `None` if it searches for none.
fn keyword_state(spec: &ConsumerSpec, settings: &Settings) -> Option<KeywordState> {
    match spec {
        ConsumerSpec::Keyword(path) => Some(keywords::state(path.as_deref(), settings)),
        _ => None,
    }
}

impl<R: FnMut() -> anyhow::Result<Settings>> Reloader for Configuration<R> {
    fn prepare(&mut self, running: &[String]) -> Prepared {
        self.changes(running).map_err(|error| format!("{error:#}").into())
    }

    fn refresh(&mut self, running: &[String]) -> Option<Prepared> {
        let asked: Vec<_> =
            wanted_consumers(&self.current).ok()?.into_iter().filter(|one| running.contains(&one.label)).collect();
        let state = |one: &Asked| Some((one.label.clone(), keyword_state(&one.spec, &self.current)?));
        let seen: HashMap<_, _> = asked.iter().filter_map(state).collect();
        // A change that was refused is not tried again.
        let changed = seen != self.seen && asked.iter().any(|one| !self.has_its_keywords(one, &self.current));
        self.seen = seen;
        changed.then(|| {
            log::info!("the enrolled keywords have changed");
            // Only what searches for keywords begins again, whatever has happened to the others' files.
            let (stay, fresh) = asked.into_iter().partition(|one| self.has_its_keywords(one, &self.current));
            self.changes_of(self.current.clone(), stay, fresh).map_err(|error| format!("{error:#}").into())
        })
    }

    fn applied(&mut self) {
        let Some(prepared) = self.prepared.take() else { return };
        if let Some(status) = self.status.clone()
            && let Err(error) = self.connect_neighbours(&prepared, &status)
        {
            log::error!("continuing without neighbours: {error:#}");
        }
        self.current = prepared;
    }
}

/// A consumer that renames an existing file when it begins: after the consumer before it has completed that file.
struct Output {
    asked: Asked,
    /// The files of all consumers, and of the report.
    outputs: Arc<[PathBuf]>,
    inner: Box<dyn Consumer>,
    open: OpenFiles,
    /// The keywords as they were read.
    keywords: Option<KeywordState>,
    searched: ReadKeywords,
}

impl Consumer for Output {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn requires(&self) -> Requirements {
        self.inner.requires()
    }

    fn count_work(&mut self, work: Arc<ConsumerWork>) {
        self.inner.count_work(work);
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        let Asked { label, spec } = &self.asked;
        locked(&self.open).remove(label);
        let ready = set_aside(spec, &self.outputs).and_then(|()| create_file(spec));
        ready.map_err(|error| ConsumerError::other(format!("{error:#}")))?;
        self.inner.begin(stream)?;
        if let Some(keywords) = self.keywords.take() {
            locked(&self.searched).insert(label.clone(), keywords);
        }
        let files = spec.files().into_iter().filter_map(|path| identity(&path).map(|id| (path, id))).collect();
        locked(&self.open).insert(label.clone(), files);
        Ok(())
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        self.inner.consume(representation)
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        let finished = self.inner.finish();
        // A successor of the same label begins after this.
        locked(&self.open).remove(&self.asked.label);
        locked(&self.searched).remove(&self.asked.label);
        finished
    }

    fn on_overflow(&self, live: bool) -> OnOverflow {
        self.inner.on_overflow(live)
    }
}

/// Locks even if a thread panicked with the lock held: the data is consistent at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
