//! Packs: models on disk, or in memory.
//!
//! A pack is a folder with a `pack.toml` and ONNX stages. [`Pack::open`] reads the manifest and checks everything that needs no
//! computation: keys, consistency of the values, presence and size of the files. The SHA-256 of a file is checked when
//! [`Encoder::load`](crate::engine::Encoder::load) reads it, or by [`Pack::verify`]. docs/pack.md describes the format.

mod error;
mod identity;
pub mod manifest;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use error::PackError;
pub(crate) use manifest::MAX_STREAM_BYTES;
pub use manifest::{ChunkFrames, Feature, FrontendScope, GapFill, Level, Manifest, Mode, PerLayer, Position, StageEntry};

/// Version of the pack format.
const FORMAT: u32 = 2;
/// Maximum width of a keyword embedding.
const MAX_EMBEDDING_WIDTH: usize = 4096;
const MANIFEST: &str = "pack.toml";
const MANIFEST_LIMIT_BYTES: u64 = 4 << 20;
/// Maximum size of a stage. The layers of HuBERT X-Large have 80 MB each; stages for small boards are far smaller.
const STAGE_LIMIT_BYTES: u64 = 512 << 20;
const MAX_LAYERS: usize = 256;
/// Block size for verifying a file.
const READ_BYTES: usize = 1 << 16;

/// A checked pack: its manifest, and the location of its stages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pack {
    /// The pack's folder; empty for a pack in memory.
    pub dir: PathBuf,
    /// `pack.toml`.
    pub manifest: Manifest,
    /// Samples to h⁰.
    pub frontend: StageFile,
    /// Positional convolution (windowed packs).
    pub position: Option<StageFile>,
    /// Layers 1 … L.
    pub layers: Vec<StageFile>,
    /// Heads as (layer, stage): layers 1 … L, and layer 0, h⁰, in packs whose chunks may exit before the first layer. Empty for a pack
    /// without heads.
    pub heads: Vec<(usize, StageFile)>,
    /// CTC branches as (layer, stage).
    pub ctc: Vec<(usize, StageFile)>,
    /// Gain predictors as (layer, stage): layers 1 … L−1, and layer 0 where h⁰ has a head. Empty for a pack without them.
    pub gain: Vec<(usize, StageFile)>,
    /// Keyword embeddings as (layer, stage): every depth at which a chunk may exit. Empty for a pack without them.
    pub embedding: Vec<(usize, StageFile)>,
    /// Posteriorgram of speech by the CTC branch of the last layer, for the thresholds of keywords from text. Not a graph, and not among the
    /// [`stages`](Self::stages).
    pub speech: Option<StageFile>,
}

/// One stage of a pack: its name, size, hash and location.
#[derive(Debug, Clone)]
pub struct StageFile {
    name: String,
    path: PathBuf,
    size: u64,
    sha256: String,
    /// The bytes of a stage in memory.
    memory: Option<Cow<'static, [u8]>>,
    state: Vec<(String, Vec<usize>)>,
}

impl Pack {
    /// Opens the pack in the folder `dir`: reads and checks `pack.toml`, and locates the files that it lists.
    ///
    /// # Errors
    ///
    /// Every [`PackError`] except [`PackError::Hash`], which is returned when a file is read.
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        let path = dir.join(MANIFEST);
        if !path.is_file() {
            return Err(PackError::NotAPack { path: dir.to_owned() });
        }
        let text = crate::toml_file::text(&path, MANIFEST_LIMIT_BYTES)?;
        Self::from_manifest(&text, path, Files { dir, memory: None })
    }

    /// Opens a pack in memory, such as one embedded in the program. `files` are the files of the folder, `pack.toml` among them, with
    /// their names relative to it.
    ///
    /// ```no_run
    /// # macro_rules! include_bytes { ($path:literal) => { b"" } }
    /// use bellis::pack::Pack;
    ///
    /// let pack = Pack::from_bytes([
    ///     ("pack.toml", include_bytes!("../pack/pack.toml").as_slice()),
    ///     ("frontend.onnx", include_bytes!("../pack/frontend.onnx").as_slice()),
    ///     // … every file that pack.toml lists
    /// ]);
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Pack::open`].
    pub fn from_bytes<N, B>(files: impl IntoIterator<Item = (N, B)>) -> Result<Self, PackError>
    where
        N: Into<String>,
        B: Into<Cow<'static, [u8]>>,
    {
        let memory: BTreeMap<String, Cow<'static, [u8]>> =
            files.into_iter().map(|(name, bytes)| (name.into(), bytes.into())).collect();
        let path = PathBuf::from(MANIFEST);
        let text = memory.get(MANIFEST).ok_or_else(|| PackError::NotAPack { path: path.clone() })?;
        let text = String::from_utf8_lossy(text).into_owned();
        Self::from_manifest(&text, path, Files { dir: Path::new(""), memory: Some(&memory) })
    }

    fn from_manifest(text: &str, path: PathBuf, files: Files<'_>) -> Result<Self, PackError> {
        /// The key that exists in every version of the format.
        #[derive(serde::Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = crate::toml_file::parse(text, &path)?;
        if format != FORMAT {
            return Err(PackError::Format { path, found: format, supported: FORMAT });
        }
        let manifest: Manifest = crate::toml_file::parse(text, &path)?;
        check(&manifest).map_err(|(key, problem)| PackError::Invalid { path: path.clone(), key, problem })?;
        let stages = &manifest.stages;
        let count = manifest.encoder.layers;
        let numbered = |group: &str, first: usize, entries: &BTreeMap<String, StageEntry>| {
            let mut out: Vec<(usize, StageFile)> = Vec::with_capacity(entries.len());
            for (key, entry) in entries {
                let layer: usize =
                    key.parse().ok().filter(|k| (first..=count).contains(k)).ok_or_else(|| PackError::Invalid {
                        path: path.clone(),
                        key: format!("[stages] {group}.{key}"),
                        problem: format!("the number of the {group} must be between {first} and {count}"),
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
        let every = |group: &str, depths: RangeInclusive<usize>, listed: Vec<(usize, StageFile)>| {
            let missing = depths.clone().find(|k| !listed.iter().any(|(layer, _)| layer == k));
            match missing.filter(|_| !listed.is_empty()) {
                None => Ok(listed),
                Some(layer) => Err(PackError::Invalid {
                    path: path.clone(),
                    key: format!("[stages] {group}.{layer}"),
                    problem: format!("is missing; layers {} to {} need one each", depths.start(), depths.end()),
                }),
            }
        };
        let frontend = files.stage("frontend".into(), &stages.frontend)?;
        let position = stages.position.as_ref().map(|entry| files.stage("position".into(), entry)).transpose()?;
        let layers = every("layer", 1..=count, numbered("layer", 1, &stages.layer)?)?;
        let layers = layers.into_iter().map(|(_, stage)| stage).collect();
        let heads = every("head", 1..=count, numbered("head", 0, &stages.head)?)?;
        let ctc = numbered("ctc", 0, &stages.ctc)?;
        let gain = every("gain", 1..=count - 1, numbered("gain", 0, &stages.gain)?)?;
        let embedding = every("embedding", shallowest_exit(&heads)..=count, numbered("embedding", 0, &stages.embedding)?)?;
        let speech = stages.speech.as_ref().map(|entry| files.stage("speech".into(), entry)).transpose()?;
        Ok(Self { dir: files.dir.to_owned(), frontend, position, layers, heads, ctc, gain, embedding, speech, manifest })
    }

    /// Checks the SHA-256 of every file.
    ///
    /// # Errors
    ///
    /// [`PackError::Hash`] names the first file that was changed or damaged.
    pub fn verify(&self) -> Result<(), PackError> {
        let mut verified: Vec<&Path> = Vec::new();
        for stage in self.stages().chain(&self.speech) {
            if !verified.contains(&stage.path()) {
                stage.verify()?;
                verified.push(stage.path());
            }
        }
        Ok(())
    }

    /// The shallowest depth at which a chunk may exit: 0, before the first layer, where h⁰ has a head.
    pub fn shallowest_exit(&self) -> usize {
        shallowest_exit(&self.heads)
    }

    /// Bytes of all files on disk, without the manifest.
    pub fn bytes(&self) -> u64 {
        let mut files: Vec<_> = self.stages().chain(&self.speech).map(|stage| (&stage.path, stage.size)).collect();
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

    /// Chunk size if none is chosen, frames.
    pub fn default_chunk_frames(&self) -> usize {
        self.manifest.encoder.default_chunk()
    }
}

/// The shallowest depth at which a chunk may exit in a pack with `heads`, in ascending order of layers.
fn shallowest_exit(heads: &[(usize, StageFile)]) -> usize {
    usize::from(heads.first().is_none_or(|(layer, _)| *layer != 0))
}

impl StageFile {
    /// A graph outside of a pack. Its expected SHA-256 is `sha256`, or that of its current bytes if `None`.
    ///
    /// # Errors
    ///
    /// [`PackError::File`] if it cannot be read, [`PackError::TooLarge`] if it exceeds the limit of a stage.
    pub fn open(name: &str, path: &Path, sha256: Option<&str>) -> Result<Self, PackError> {
        let mut file = Self::on_disk(name.to_owned(), path.to_owned(), String::new())?;
        file.sha256 = match sha256 {
            Some(known) => known.to_owned(),
            None => file.hash()?,
        };
        Ok(file)
    }

    fn on_disk(name: String, path: PathBuf, sha256: String) -> Result<Self, PackError> {
        let metadata = std::fs::metadata(&path);
        let size = metadata.map_err(|source| PackError::File { path: path.clone(), stage: name.clone(), source })?.len();
        if size > STAGE_LIMIT_BYTES {
            return Err(PackError::TooLarge { path, bytes: size, limit: STAGE_LIMIT_BYTES });
        }
        Ok(Self { name, path, size, sha256, memory: None, state: Vec::new() })
    }

    /// The name in `pack.toml`: `layer.3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file; for a pack in memory, its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The expected SHA-256, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Declared states of a cached layer: (name, shape).
    pub(crate) fn state(&self) -> &[(String, Vec<usize>)] {
        &self.state
    }

    /// The ONNX bytes, verified.
    ///
    /// # Errors
    ///
    /// [`PackError::File`] and [`PackError::Hash`].
    pub fn read(&self) -> Result<Cow<'_, [u8]>, PackError> {
        let bytes = match &self.memory {
            Some(bytes) => Cow::Borrowed(&bytes[..]),
            None => Cow::Owned(std::fs::read(&self.path).map_err(|source| self.unreadable(source))?),
        };
        self.check(hex(&Sha256::digest(&bytes)))?;
        Ok(bytes)
    }

    /// Checks the SHA-256, without holding the whole file in memory.
    ///
    /// # Errors
    ///
    /// [`PackError::File`] and [`PackError::Hash`].
    pub fn verify(&self) -> Result<(), PackError> {
        self.check(self.hash()?)
    }

    fn check(&self, found: String) -> Result<(), PackError> {
        match found.eq_ignore_ascii_case(&self.sha256) {
            true => Ok(()),
            false => {
                Err(PackError::Hash { path: self.path.clone(), stage: self.name.clone(), expected: self.sha256.clone(), found })
            }
        }
    }

    /// The SHA-256 of the current bytes, in hexadecimal.
    fn hash(&self) -> Result<String, PackError> {
        if let Some(bytes) = &self.memory {
            return Ok(hex(&Sha256::digest(bytes)));
        }
        let unreadable = |source| self.unreadable(source);
        let (mut file, mut hash) = (std::fs::File::open(&self.path).map_err(unreadable)?, Sha256::new());
        let mut part = vec![0; READ_BYTES];
        loop {
            match file.read(&mut part).map_err(unreadable)? {
                0 => return Ok(hex(&hash.finalize())),
                count => hash.update(&part[..count]),
            }
        }
    }

    fn unreadable(&self, source: std::io::Error) -> PackError {
        PackError::File { path: self.path.clone(), stage: self.name.clone(), source }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of a pack: in a folder, or in memory.
struct Files<'a> {
    dir: &'a Path,
    memory: Option<&'a BTreeMap<String, Cow<'static, [u8]>>>,
}

impl Files<'_> {
    fn stage(&self, name: String, entry: &StageEntry) -> Result<StageFile, PackError> {
        let path = self.dir.join(&entry.file);
        let escapes = Path::new(&entry.file).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if escapes {
            let problem = format!("`{}` is outside of the pack's folder", entry.file);
            return Err(PackError::Invalid { path: self.dir.join(MANIFEST), key: format!("[stages] {name}"), problem });
        }
        let mut file = match self.memory {
            None => StageFile::on_disk(name, path, entry.sha256.clone())?,
            Some(memory) => match memory.get(&entry.file) {
                Some(bytes) => {
                    let (size, memory) = (bytes.len() as u64, Some(bytes.clone()));
                    StageFile { name, path, size, sha256: entry.sha256.clone(), memory, state: Vec::new() }
                }
                None => {
                    let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                    return Err(PackError::File { path, stage: name, source });
                }
            },
        };
        file.state = entry.state.iter().map(|(name, shape)| (name.clone(), shape.clone())).collect();
        Ok(file)
    }
}

type Problem = (String, String);

/// Checks the manifest's values for consistency.
fn check(m: &Manifest) -> Result<(), Problem> {
    let fail = |key: &str, problem: String| Err((key.to_owned(), problem));
    let (audio, encoder) = (&m.audio, &m.encoder);
    if !(1_000..=384_000).contains(&audio.sample_rate) {
        return fail("[audio] sample_rate", format!("must be between 1,000 and 384,000 Hz, got {}", audio.sample_rate));
    }
    if !(1..=1 << 16).contains(&audio.hop) {
        return fail("[audio] hop", format!("must be between 1 and {} samples, got {}", 1 << 16, audio.hop));
    }
    if !(audio.hop..=1 << 20).contains(&audio.receptive_field) {
        let problem = format!("must be between hop = {} and {} samples, got {}", audio.hop, 1 << 20, audio.receptive_field);
        return fail("[audio] receptive_field", problem);
    }
    if audio.lead > audio.receptive_field - audio.hop {
        let most = audio.receptive_field - audio.hop;
        return fail(
            "[audio] lead",
            format!("must be at most receptive_field − hop = {most}, got {}; a longer lead would skip samples", audio.lead),
        );
    }
    for (key, value, valid) in [
        ("layers", encoder.layers, 1..=MAX_LAYERS),
        ("dim", encoder.dim, 1..=1 << 14),
        ("heads", encoder.heads, 1..=256),
        ("units", encoder.units, 1..=1 << 20),
        ("left_context", encoder.left_context, 0..=(1 << 16) - 1),
        ("right_context", encoder.right_context, 0..=(1 << 16) - 1),
    ] {
        if !valid.contains(&value) {
            let problem = format!("must be between {} and {}, got {value}", valid.start(), valid.end());
            return fail(&format!("[encoder] {key}"), problem);
        }
    }
    if encoder.dim % encoder.heads != 0 {
        return fail("[encoder] heads", format!("must divide dim = {}, got {}", encoder.dim, encoder.heads));
    }
    let default = encoder.default_chunk_frames.or_else(|| encoder.chunk_frames.middle());
    match default {
        Some(frames) if frames > 0 && encoder.chunk_frames.contains(frames) && frames <= 1 << 12 => {}
        _ => {
            return fail(
                "[encoder] chunk_frames",
                "must allow at least one chunk size from 1 to 4096 frames, including the default one".into(),
            );
        }
    }
    let bytes = encoder.stream_bytes(encoder.default_chunk());
    let states = m.stages.layer.values().flat_map(|layer| layer.state.values());
    let state_bytes = states.map(|shape| shape.iter().fold(4u128, |bytes, &size| bytes.saturating_mul(size as u128)));
    if state_bytes.fold(0u128, u128::saturating_add) > MAX_STREAM_BYTES {
        let problem = format!("its shapes need more than {} MiB per stream", MAX_STREAM_BYTES >> 20);
        return fail("[stages.layer] state", problem);
    }
    if bytes > MAX_STREAM_BYTES {
        let problem = format!(
            "left_context, right_context and chunk_frames of this size need {} MiB per stream, more than {} MiB; reduce them",
            bytes >> 20,
            MAX_STREAM_BYTES >> 20
        );
        return fail("[encoder] left_context", problem);
    }
    let allows_none = match &encoder.chunk_frames {
        ChunkFrames::List(list) => list.contains(&0),
        ChunkFrames::Range(range) => range.min == 0,
    };
    if allows_none {
        return fail("[encoder] chunk_frames", "must not contain 0: a chunk has at least 1 frame".into());
    }
    if encoder.mode == Mode::Cached {
        if encoder.right_context != 0 {
            return fail(
                "[encoder] right_context",
                "must be 0 in cached mode: a cached chunk attends to itself and to earlier frames only".into(),
            );
        }
        if encoder.frontend_scope == FrontendScope::Window || audio.level == Level::WindowNorm || m.stages.position.is_some() {
            return fail(
                "[encoder] mode",
                "must be `windowed` for frontend_scope = \"window\", level = \"window-norm\" or a position stage".into(),
            );
        }
    }
    if audio.level == Level::WindowNorm && encoder.frontend_scope == FrontendScope::Frame {
        return fail("[audio] level", "`window-norm` requires frontend_scope = \"window\"".into());
    }
    if encoder.position == Position::Alibi && encoder.alibi_slopes.len() != encoder.heads {
        return fail(
            "[encoder] alibi_slopes",
            format!("must have one slope per head ({}), got {}", encoder.heads, encoder.alibi_slopes.len()),
        );
    }
    check_exit(m)
}

fn check_exit(m: &Manifest) -> Result<(), Problem> {
    let fail = |key: &str, problem: String| Err((key.to_owned(), problem));
    let layers = m.encoder.layers;
    for (key, value) in [("threshold", &m.exit.threshold), ("ctc", &m.exit.ctc), ("change", &m.exit.change)] {
        if let Some(thresholds @ PerLayer::Each(values)) = value
            && !thresholds.fits(layers)
        {
            return fail(&format!("[exit] {key}"), format!("must have one value per layer ({layers}), got {}", values.len()));
        }
    }
    if let Some([first, last]) = m.exit.range
        && !(1 <= first && first <= last && last <= layers)
    {
        return fail("[exit] range", format!("must be a range within layers 1 to {layers}, got [{first}, {last}]"));
    }
    if let Some(layer) = m.exit.fixed
        && !(1..=layers).contains(&layer)
    {
        return fail("[exit] fixed", format!("must be between 1 and {layers}, got {layer}"));
    }
    if m.stages.layer.is_empty() {
        return fail("[stages] layer.1", "is missing".into());
    }
    if m.stages.gain.contains_key("0") && !m.stages.head.contains_key("0") {
        return fail(
            "[stages] gain.0",
            "requires head.0, which gives the units of chunks that exit before the first layer".into(),
        );
    }
    if m.encoder.quiet_unit.is_some_and(|unit| unit >= m.encoder.units) {
        return fail("[encoder] quiet_unit", format!("must be between 0 and {}", m.encoder.units - 1));
    }
    if m.stages.gain.keys().any(|key| key.parse() == Ok(layers)) {
        return fail(&format!("[stages] gain.{layers}"), "must be absent: no layer follows the last one".into());
    }
    for target in m.exit.calibrated.iter().flat_map(|section| &section.targets) {
        if target.thresholds.len() + 1 != layers || !(0.0..=1.0).contains(&target.agreement) {
            let problem = format!("each target needs an agreement from 0 to 1 and {} thresholds", layers - 1);
            return fail("[exit.calibrated] targets", problem);
        }
    }
    if let Some(mixture) = &m.mixture
        && (mixture.weights.len() != layers + 1 || mixture.weights.iter().any(|weight| !weight.is_finite()))
    {
        let problem = format!("must have layers + 1 = {} finite values, got {}", layers + 1, mixture.weights.len());
        return fail("[mixture] weights", problem);
    }
    if m.embedding.is_none() != m.stages.embedding.is_empty() {
        return fail("[embedding] width", "and `embedding.k` in [stages] require each other, but one is missing".into());
    }
    if let Some(embedding) = &m.embedding
        && !(1..=MAX_EMBEDDING_WIDTH).contains(&embedding.width)
    {
        return fail("[embedding] width", format!("must be between 1 and {MAX_EMBEDDING_WIDTH}"));
    }
    if m.ctc.is_none() && !m.stages.ctc.is_empty() {
        return fail("[ctc] vocabulary", "is missing, but [stages] lists ctc branches".into());
    }
    if let Some(ctc) = &m.ctc
        && !(2..=1 << 16).contains(&ctc.vocabulary.len())
    {
        return fail("[ctc] vocabulary", "must have 2 to 65536 classes, including the blank".into());
    }
    Ok(())
}
