//! A pack: a model on disk. `Pack::open` reads `pack.toml` and checks all that can be checked without computing:
//! keys, numbers against each other, every file's presence, size and SHA-256. docs/pack.md is the format.

mod error;
mod identity;
pub mod manifest;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use error::PackError;
pub use manifest::{ChunkFrames, Feature, FrontendScope, GapFill, Level, Manifest, Mode, PerLayer, Position, StageEntry};

/// Version of the pack format.
const FORMAT: u32 = 2;
/// Maximum width of a keyword embedding.
const MAX_EMBEDDING_WIDTH: usize = 4096;
const MANIFEST_LIMIT_BYTES: u64 = 4 << 20;
/// HuBERT X-Large's layers have 80 MB each; nothing honest comes near this.
const STAGE_LIMIT_BYTES: u64 = 512 << 20;
const MAX_LAYERS: usize = 256;
/// A file is verified in parts of this size.
const READ_BYTES: usize = 1 << 16;

/// A checked pack: the manifest and the bytes of its stages.
#[derive(Debug)]
pub struct Pack {
    /// The folder.
    pub dir: PathBuf,
    /// `pack.toml`.
    pub manifest: Manifest,
    /// Samples to h⁰.
    pub frontend: StageFile,
    /// Positional convolution (windowed).
    pub position: Option<StageFile>,
    /// Layers 1 … L.
    pub layers: Vec<StageFile>,
    /// Heads: (layer, stage) of layers 1 … L, and of h⁰ as layer 0 in a pack whose chunks may stop before the first layer; empty
    /// for a pack without heads.
    pub heads: Vec<(usize, StageFile)>,
    /// CTC branches: (layer, stage).
    pub ctc: Vec<(usize, StageFile)>,
    /// Predictors of `gain`: (layer, stage) of layers 1 … L−1, and 0 where h⁰ has a head; empty for a pack without them.
    pub gain: Vec<(usize, StageFile)>,
    /// What keywords are matched in: (layer, stage) of every depth where a chunk may stop; empty for a pack without it.
    pub embedding: Vec<(usize, StageFile)>,
}

/// One stage's file, read and verified once, and again when it is loaded: its bytes are not kept.
#[derive(Debug)]
pub struct StageFile {
    /// As in `pack.toml`: `layer.3`.
    pub name: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// Its bytes on disk.
    pub size: u64,
    sha256: String,
    /// Declared state: (name, shape).
    pub state: Vec<(String, Vec<usize>)>,
}

impl Pack {
    /// Opens the pack in `dir`: reads `pack.toml`, checks it, reads and verifies every file.
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        let path = dir.join("pack.toml");
        if !path.is_file() {
            return Err(PackError::NotAPack { path: dir.to_owned() });
        }
        /// The key that every version of the format has.
        #[derive(serde::Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = crate::toml_file::read(&path, MANIFEST_LIMIT_BYTES)?;
        if format != FORMAT {
            return Err(PackError::Format { path, found: format, supported: FORMAT });
        }
        let manifest: Manifest = crate::toml_file::read(&path, MANIFEST_LIMIT_BYTES)?;
        check(&manifest).map_err(|(key, problem)| PackError::Invalid { path: path.clone(), key, problem })?;
        let mut files = Files { dir, seen: Vec::new() };
        let stages = &manifest.stages;
        let count = manifest.encoder.layers;
        let numbered = |group: &str, first: usize, entries: &BTreeMap<String, StageEntry>, files: &mut Files<'_>| {
            let mut out: Vec<(usize, StageFile)> = Vec::with_capacity(entries.len());
            for (key, entry) in entries {
                let layer: usize =
                    key.parse().ok().filter(|k| (first..=count).contains(k)).ok_or_else(|| PackError::Invalid {
                        path: path.clone(),
                        key: format!("[stages] {group}.{key}"),
                        problem: format!("the pack has {group}s {first} to {count}"),
                    })?;
                out.push((layer, files.stage(format!("{group}.{layer}"), entry)?));
            }
            out.sort_by_key(|(layer, _)| *layer);
            match out.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                None => Ok::<_, PackError>(out),
                Some(pair) => Err(PackError::Invalid {
                    path: path.clone(),
                    key: format!("[stages] {}", pair[0].1.name),
                    problem: "is listed twice".into(),
                }),
            }
        };
        let every = |group: &str, depths: RangeInclusive<usize>, found: Vec<(usize, StageFile)>| {
            let missing = depths.clone().find(|k| !found.iter().any(|(layer, _)| layer == k));
            match missing.filter(|_| !found.is_empty()) {
                None => Ok(found),
                Some(layer) => Err(PackError::Invalid {
                    path: path.clone(),
                    key: format!("[stages] {group}.{layer}"),
                    problem: format!("is missing; layers {} to {} need one each", depths.start(), depths.end()),
                }),
            }
        };
        let frontend = files.stage("frontend".into(), &stages.frontend)?;
        let position = stages.position.as_ref().map(|entry| files.stage("position".into(), entry)).transpose()?;
        let layers = every("layer", 1..=count, numbered("layer", 1, &stages.layer, &mut files)?)?;
        let layers = layers.into_iter().map(|(_, stage)| stage).collect();
        let heads = every("head", 1..=count, numbered("head", 0, &stages.head, &mut files)?)?;
        let ctc = numbered("ctc", 0, &stages.ctc, &mut files)?;
        let gain = every("gain", 1..=count - 1, numbered("gain", 0, &stages.gain, &mut files)?)?;
        let embedding =
            every("embedding", shallowest_exit(&heads)..=count, numbered("embedding", 0, &stages.embedding, &mut files)?)?;
        Ok(Self { dir: dir.to_owned(), frontend, position, layers, heads, ctc, gain, embedding, manifest })
    }

    /// The shallowest depth at which a chunk may stop: 0, before the first layer, where h⁰ has a head.
    pub fn shallowest_exit(&self) -> usize {
        shallowest_exit(&self.heads)
    }

    /// Bytes of all stages on disk.
    pub fn bytes(&self) -> u64 {
        let mut files: Vec<_> = self.stages().map(|stage| (&stage.path, stage.size)).collect();
        files.sort();
        files.dedup();
        files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Every stage, in the order of computation.
    pub fn stages(&self) -> impl Iterator<Item = &StageFile> {
        [&self.frontend]
            .into_iter()
            .chain(&self.position)
            .chain(&self.layers)
            .chain(self.heads.iter().chain(&self.ctc).chain(&self.gain).chain(&self.embedding).map(|(_, stage)| stage))
    }

    /// The chunk size taken when none is asked for, frames.
    pub fn default_chunk_frames(&self) -> usize {
        let encoder = &self.manifest.encoder;
        encoder.default_chunk_frames.or_else(|| encoder.chunk_frames.middle()).unwrap_or(1)
    }
}

/// The shallowest depth at which a chunk may stop in a pack with `heads`, by rising layer.
fn shallowest_exit(heads: &[(usize, StageFile)]) -> usize {
    usize::from(heads.first().is_none_or(|(layer, _)| *layer != 0))
}

impl StageFile {
    /// A graph that stands outside of a pack, of which `sha256` is known, or taken as it is now.
    pub fn open(name: &str, path: &Path, sha256: Option<&str>) -> Result<Self, PackError> {
        let (size, found) = measure(name, path)?;
        let sha256 = sha256.unwrap_or(&found).to_owned();
        let file = Self { name: name.to_owned(), path: path.to_owned(), size, sha256, state: Vec::new() };
        if file.sha256.eq_ignore_ascii_case(&found) { Ok(file) } else { Err(file.changed(found)) }
    }

    /// The SHA-256 that its bytes have, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The ONNX bytes, verified once more.
    pub fn read(&self) -> Result<Vec<u8>, PackError> {
        let io = |source| PackError::File { path: self.path.clone(), stage: self.name.clone(), source };
        let bytes = std::fs::read(&self.path).map_err(io)?;
        let found = hex(&Sha256::digest(&bytes));
        match found.eq_ignore_ascii_case(&self.sha256) {
            true => Ok(bytes),
            false => Err(self.changed(found)),
        }
    }

    fn changed(&self, found: String) -> PackError {
        PackError::Hash { path: self.path.clone(), stage: self.name.clone(), expected: self.sha256.clone(), found }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many bytes the file of a graph has, and their SHA-256 in hexadecimal.
fn measure(name: &str, path: &Path) -> Result<(u64, String), PackError> {
    let io = |source| PackError::File { path: path.to_owned(), stage: name.to_owned(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > STAGE_LIMIT_BYTES {
        return Err(PackError::TooLarge { path: path.to_owned(), bytes: size, limit: STAGE_LIMIT_BYTES });
    }
    let (mut file, mut hash) = (std::fs::File::open(path).map_err(io)?, Sha256::new());
    let mut part = vec![0; READ_BYTES];
    loop {
        match file.read(&mut part).map_err(io)? {
            0 => break,
            count => hash.update(&part[..count]),
        }
    }
    Ok((size, hex(&hash.finalize())))
}

/// Verifies files of one pack, each once: (path, bytes, hash).
struct Files<'a> {
    dir: &'a Path,
    seen: Vec<(PathBuf, u64, String)>,
}

impl Files<'_> {
    fn stage(&mut self, name: String, entry: &StageEntry) -> Result<StageFile, PackError> {
        let path = self.dir.join(&entry.file);
        let escapes = Path::new(&entry.file).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if escapes {
            let problem = format!("`{}` leaves the pack's folder; a stage's file stands inside of it", entry.file);
            return Err(PackError::Invalid { path: self.dir.join("pack.toml"), key: format!("[stages] {name}"), problem });
        }
        let (size, found) = match self.seen.iter().find(|(known, ..)| *known == path) {
            Some((_, size, hash)) => (*size, hash.clone()),
            None => {
                let (size, hash) = measure(&name, &path)?;
                self.seen.push((path.clone(), size, hash.clone()));
                (size, hash)
            }
        };
        let state = entry.state.iter().map(|(name, shape)| (name.clone(), shape.clone())).collect();
        let file = StageFile { name, path, size, sha256: entry.sha256.clone(), state };
        match found.eq_ignore_ascii_case(&file.sha256) {
            true => Ok(file),
            false => Err(file.changed(found)),
        }
    }
}

type Problem = (String, String);

/// Holds the manifest's numbers against each other.
fn check(m: &Manifest) -> Result<(), Problem> {
    let fail = |key: &str, problem: String| Err((key.to_owned(), problem));
    let (audio, encoder) = (&m.audio, &m.encoder);
    if !(1_000..=384_000).contains(&audio.sample_rate) {
        return fail("[audio] sample_rate", format!("{} Hz is no rate of speech", audio.sample_rate));
    }
    if audio.hop == 0 || audio.hop > 1 << 16 || audio.receptive_field < audio.hop || audio.receptive_field > 1 << 20 {
        return fail("[audio] receptive_field", format!("{} samples cannot hold a hop of {}", audio.receptive_field, audio.hop));
    }
    if audio.lead > audio.receptive_field - audio.hop {
        let most = audio.receptive_field - audio.hop;
        return fail(
            "[audio] lead",
            format!("is {}; more than receptive_field − hop = {most} would leave samples unseen", audio.lead),
        );
    }
    for (key, value, most) in [
        ("layers", encoder.layers, MAX_LAYERS),
        ("dim", encoder.dim, 1 << 14),
        ("heads", encoder.heads, 256),
        ("units", encoder.units, 1 << 20),
        ("left_context", encoder.left_context + 1, 1 << 16),
        ("right_context", encoder.right_context + 1, 1 << 16),
    ] {
        if value == 0 || value > most {
            return fail(&format!("[encoder] {key}"), format!("is {value}; 1 to {most} is possible"));
        }
    }
    if encoder.dim % encoder.heads != 0 {
        return fail("[encoder] heads", format!("{} heads do not divide dim = {}", encoder.heads, encoder.dim));
    }
    let default = encoder.default_chunk_frames.or_else(|| encoder.chunk_frames.middle());
    match default {
        Some(frames) if frames > 0 && encoder.chunk_frames.contains(frames) && frames <= 1 << 12 => {}
        _ => return fail("[encoder] chunk_frames", "allows no chunk size of at least 1 frame (or not the default one)".into()),
    }
    if matches!(&encoder.chunk_frames, ChunkFrames::List(list) if list.contains(&0)) {
        return fail("[encoder] chunk_frames", "a chunk has at least 1 frame".into());
    }
    if encoder.mode == Mode::Cached {
        if encoder.right_context != 0 {
            return fail(
                "[encoder] right_context",
                "must be 0 in cached mode: a cached chunk sees itself and what came before".into(),
            );
        }
        if encoder.frontend_scope == FrontendScope::Window || audio.level == Level::WindowNorm || m.stages.position.is_some() {
            return fail(
                "[encoder] mode",
                "a cached pack has no window: frontend_scope, level and a position stage are for windowed packs".into(),
            );
        }
    }
    if audio.level == Level::WindowNorm && encoder.frontend_scope == FrontendScope::Frame {
        return fail("[audio] level", "`window-norm` wants frontend_scope = \"window\"".into());
    }
    if encoder.position == Position::Alibi && encoder.alibi_slopes.len() != encoder.heads {
        return fail("[encoder] alibi_slopes", format!("{} slopes for {} heads", encoder.alibi_slopes.len(), encoder.heads));
    }
    check_exit(m)
}

fn check_exit(m: &Manifest) -> Result<(), Problem> {
    let fail = |key: &str, problem: String| Err((key.to_owned(), problem));
    let layers = m.encoder.layers;
    for (key, value) in [("threshold", &m.exit.threshold), ("ctc", &m.exit.ctc), ("change", &m.exit.change)] {
        if let Some(PerLayer::Each(values)) = value
            && values.len() + 1 != layers
            && values.len() != layers
        {
            return fail(&format!("[exit] {key}"), format!("{} numbers for {layers} layers", values.len()));
        }
    }
    if let Some([first, last]) = m.exit.range
        && !(1 <= first && first <= last && last <= layers)
    {
        return fail("[exit] range", format!("[{first}, {last}] is no range of layers 1 to {layers}"));
    }
    if let Some(layer) = m.exit.fixed
        && !(1..=layers).contains(&layer)
    {
        return fail("[exit] fixed", format!("{layer} is no layer of 1 to {layers}"));
    }
    if m.stages.layer.is_empty() {
        return fail("[stages] layer.1", "is missing".into());
    }
    if m.stages.gain.contains_key("0") && !m.stages.head.contains_key("0") {
        return fail(
            "[stages] gain.0",
            "wants a head.0: a chunk that stops before the first layer has its units from there".into(),
        );
    }
    if m.encoder.quiet_unit.is_some_and(|unit| unit >= m.encoder.units) {
        return fail("[encoder] quiet_unit", format!("is no unit of 0 to {}", m.encoder.units - 1));
    }
    if m.stages.gain.keys().any(|key| key.parse() == Ok(layers)) {
        return fail(&format!("[stages] gain.{layers}"), "nothing is left to gain after the last layer".into());
    }
    for target in m.exit.calibrated.iter().flat_map(|section| &section.targets) {
        if target.thresholds.len() + 1 != layers || !(0.0..=1.0).contains(&target.agreement) {
            let problem = format!("a target wants an agreement of 0 to 1 and {} thresholds", layers - 1);
            return fail("[exit.calibrated] targets", problem);
        }
    }
    if let Some(mixture) = &m.mixture
        && mixture.weights.len() != layers + 1
    {
        return fail("[mixture] weights", format!("{} numbers; layers + 1 = {} are needed", mixture.weights.len(), layers + 1));
    }
    if m.embedding.is_none() != m.stages.embedding.is_empty() {
        return fail("[embedding] width", "and `embedding.k` of [stages] go together: one of them is missing".into());
    }
    if let Some(embedding) = &m.embedding
        && !(1..=MAX_EMBEDDING_WIDTH).contains(&embedding.width)
    {
        return fail("[embedding] width", format!("wants 1 to {MAX_EMBEDDING_WIDTH}"));
    }
    if m.ctc.is_none() && !m.stages.ctc.is_empty() {
        return fail("[ctc] vocabulary", "is missing, but [stages] lists ctc branches".into());
    }
    if let Some(ctc) = &m.ctc
        && !(2..=1 << 16).contains(&ctc.vocabulary.len())
    {
        return fail("[ctc] vocabulary", "wants the blank and at least one class more".into());
    }
    Ok(())
}
