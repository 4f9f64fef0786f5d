//! The settings of `bellis run` and `bellis serve`: flags, or a TOML file with the same names. Flags take precedence.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bellis::audio::{ChannelPick, PcmFormat};
use bellis::consumer::stream::{ArrayName, FloatType};
use bellis::engine::{Int8Kernel, LoadOptions, Precision};
use bellis::exit::{ExitPolicy, Measure, PolicyError, PolicyName, PolicySpec};
use bellis::pack::{GapFill, Pack, PerLayer};
use bellis::runtime::InputGain;
use clap::Args;
use serde::Deserialize;

#[cfg(feature = "neighbours")]
use super::neighbours::NeighbourArgs;
#[cfg(not(feature = "neighbours"))]
use super::no_neighbours::NeighbourArgs;
use super::{locate, values};

/// Maximum size of a TOML configuration.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// Vectors of the representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VectorsName {
    /// The exit layer's state
    Last,
    /// DAISY's weighted mixture of the states up to the exit layer
    Mixture,
}

/// The channel to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a channel is a number from 1, or \"auto\"")]
pub enum Channel {
    /// One channel, counted from 1.
    Number(u16),
    /// Those that are live.
    #[serde(deserialize_with = "auto")]
    Auto,
}

/// The gain of the input.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a gain is a number of decibels, or \"auto\"")]
pub enum Gain {
    /// Decibels.
    Db(f32),
    /// Follows the level.
    #[serde(deserialize_with = "auto")]
    Auto,
}

impl Gain {
    /// The gain, checked.
    pub fn checked(self) -> anyhow::Result<InputGain> {
        match self {
            Self::Auto => Ok(InputGain::Auto),
            Self::Db(gain_db) if (-60.0..=60.0).contains(&gain_db) => Ok(InputGain::Fixed(gain_db)),
            Self::Db(gain_db) => bail!("gain_db must be between -60 and 60, got {gain_db} (--gain-db)"),
        }
    }
}

impl std::str::FromStr for Gain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Db).map_err(|_| "a gain is a number of decibels, or `auto`".to_owned()),
        }
    }
}

/// The consumers of a file, which is UTF-8; a flag may contain any path.
fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
    Ok(Vec::<String>::deserialize(deserializer)?.into_iter().map(OsString::from).collect())
}

/// Accepts the word `auto` only.
fn auto<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    let word = String::deserialize(deserializer)?;
    if word == "auto" { Ok(()) } else { Err(serde::de::Error::custom("not auto")) }
}

impl Channel {
    /// What it selects.
    pub fn pick(self) -> anyhow::Result<ChannelPick> {
        Ok(match self {
            Self::Auto => ChannelPick::Auto,
            Self::Number(0) => bail!("--channel must be at least 1: channels are counted from 1"),
            Self::Number(channel) => ChannelPick::Channel(channel - 1),
        })
    }
}

impl std::str::FromStr for Channel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Number).map_err(|_| "must be a number from 1, or `auto`".into()),
        }
    }
}

/// Where the audio comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// The bundled recording.
    Sample,
    /// None: `bellis serve` only offers services.
    None,
    /// A microphone.
    Microphone,
    /// A pipe.
    Stdin,
    /// A file.
    File(&'a Path),
}

/// Effect of a changed setting when `bellis serve` reloads.
#[derive(PartialEq, Eq)]
enum Reload {
    /// None: the change requires a restart.
    Restart,
    /// Replaces the policy.
    Policy,
    /// Replaces the policy. Ignored in the file if the command line selects another policy.
    Parameter,
    /// Starts and stops consumers.
    Consumers,
    /// Restarts the consumers, which may depend on it.
    Output,
    /// Connects to other machines.
    Neighbours,
}

/// The table `[mqtt]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MqttSettings {
    /// `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
    pub broker: String,
    /// User.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificate authority.
    pub ca: Option<PathBuf>,
    /// Name of the device.
    pub name: Option<String>,
    /// Prefix of the discovery topics.
    pub discovery_prefix: Option<String>,
    /// Seconds from one reading of depth and level to the next.
    pub interval: Option<f64>,
    /// Whether there is a sensor for speech.
    pub speech: Option<bool>,
}

/// A value that flags and a file can set.
pub trait Layer {
    /// This value, or `below` if this one is not set.
    fn over(self, below: Self) -> Self;
}

impl<T> Layer for Option<T> {
    fn over(self, below: Self) -> Self {
        self.or(below)
    }
}

impl<T> Layer for Vec<T> {
    fn over(self, below: Self) -> Self {
        if self.is_empty() { below } else { self }
    }
}

impl Layer for bool {
    fn over(self, below: Self) -> Self {
        self || below
    }
}

/// Defines the settings with their effect on reload, and the methods that cover all of them.
macro_rules! settings {
    ($(#[$attribute:meta])* pub struct Settings { $($(#[$meta:meta])* pub $field:ident: $type:ty = $reload:ident,)* }) => {
        $(#[$attribute])*
        pub struct Settings {
            $($(#[$meta])* pub $field: $type,)*
        }

        impl Settings {
            /// Merges these settings with those of `file`; values set here take precedence.
            pub fn over(self, file: Self) -> Self {
                let other_policy = self.policy.is_some() && self.policy != file.policy;
                let rate = (self.false_accepts, self.sensitivity);
                let mut merged = Self {
                    $($field: match Reload::$reload {
                        Reload::Parameter if other_policy => self.$field,
                        _ => self.$field.over(file.$field),
                    },)*
                };
                // A flag for one of them replaces the other one in the file.
                if rate.0.is_some() || rate.1.is_some() {
                    (merged.false_accepts, merged.sensitivity) = rate;
                }
                merged
            }

            /// Keys that differ from `other` and require a restart of `bellis serve`.
            pub fn changes_for_a_restart(&self, other: &Self) -> Vec<String> {
                let mut keys = Vec::new();
                $(if Reload::$reload == Reload::Restart && self.$field != other.$field {
                    keys.push(stringify!($field).replace('_', "-"));
                })*
                keys
            }

            /// These settings, with the keys that require a restart of `bellis serve` as in `running`.
            pub fn with_restart_keys_of(self, running: &Self) -> Self {
                let mut merged = self;
                $(if Reload::$reload == Reload::Restart {
                    merged.$field = running.$field.clone();
                })*
                merged
            }

            /// These settings without the policy and the list of consumers: everything that consumers may depend on.
            pub fn of_consumers(&self) -> Self {
                let mut rest = self.clone();
                $(if matches!(Reload::$reload, Reload::Policy | Reload::Parameter | Reload::Consumers | Reload::Neighbours) {
                    rest.$field = Default::default();
                })*
                rest
            }
        }
    };
}

settings! {
    /// Every setting. All are optional, so that flags can be merged with a file.
    #[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    pub struct Settings {
        /// Audio file (WAV, FLAC, Ogg, MP3, AIFF), `-` for standard input, or `mic`
        ///
        /// Standard input may contain any of these formats, or raw PCM. The default of `bellis run` is the bundled recording, that of `bellis serve` the microphone.
        pub input: Option<PathBuf> = Restart,

        /// Pack: a folder, or the name of a bundled one [default: daisy-tiny]
        #[arg(long, value_name = "PACK", help_heading = "Model")]
        pub pack: Option<PathBuf> = Restart,
        /// Chunk length in milliseconds [default: the pack's]
        ///
        /// The chunk is the unit of latency and of early exit. Longer chunks cost less. The pack lists the supported lengths (`bellis
        /// inspect`).
        #[arg(long, value_name = "MS", help_heading = "Model")]
        pub chunk: Option<f64> = Restart,
        /// Vectors of the representation [default: last]
        #[arg(long, value_enum, help_heading = "Model")]
        pub vectors: Option<VectorsName> = Output,
        /// Source of keys and values that early exits left out [default: the pack's]
        ///
        /// Cached packs only. `project` computes them from the exit state; `catch-up` runs the missing layers, which is exact and slower.
        #[arg(long, value_parser = values::gap_fill(), help_heading = "Model")]
        pub gap_fill: Option<GapFill> = Restart,
        /// Precision of the layers' matmuls [default: auto]
        ///
        /// There is no f16: every processor that supports it also has int8 dot products, which are faster.
        #[arg(long, value_parser = values::precision(), help_heading = "Model")]
        pub precision: Option<Precision> = Restart,
        /// Kernel of the int8 matmuls [default: the fastest]
        ///
        /// All kernels compute the same results. `bellis inspect --kernels` shows the selected one and its speed.
        #[arg(long, value_name = "NAME", value_parser = values::kernels(), help_heading = "Model")]
        pub kernels: Option<Int8Kernel> = Restart,
        /// Threads for large f32 matmuls, 1 to 64 [default: 1]
        ///
        /// Useful for packs of the size of HuBERT-base. All but the first thread run only on idle cores. Results are bit-identical.
        #[arg(long, value_name = "COUNT", help_heading = "Model")]
        pub threads: Option<usize> = Restart,

        /// Exit policy [default: the pack's]
        #[arg(long, value_parser = values::policy(), help_heading = "Exit policy")]
        pub policy: Option<PolicyName> = Policy,
        /// Threshold of the policy: one number, or one per layer, separated by commas
        ///
        /// For `threshold`, `range` and `ctc` in nats (or a probability with --measure), for `change` in nats, for `gain` in nats per
        /// layer.
        #[arg(long, value_name = "NUMBER", value_parser = per_layer, allow_hyphen_values = true, help_heading = "Exit policy")]
        pub threshold: Option<PerLayer> = Parameter,
        /// Measure that `threshold`, `range` and `ctc` compare [default: entropy]
        #[arg(long, value_parser = values::measure(), help_heading = "Exit policy")]
        pub measure: Option<Measure> = Parameter,
        /// Exit layer of `fixed` and `periodic`
        #[arg(long, help_heading = "Exit policy")]
        pub layer: Option<usize> = Parameter,
        /// First and last layer of `range`
        #[arg(long, value_name = "FIRST..LAST", value_parser = range, help_heading = "Exit policy")]
        pub range: Option<(usize, usize)> = Parameter,
        /// Interval of full-depth chunks with `periodic` [default: 8]
        #[arg(long, value_name = "CHUNKS", help_heading = "Exit policy")]
        pub period: Option<usize> = Parameter,
        /// Target agreement of `calibrated` with full depth [default: 0.95]
        #[arg(long, value_name = "0..1", help_heading = "Exit policy")]
        pub agreement: Option<f32> = Parameter,
        /// Exit silent chunks before the first layer, from this probability of silence
        ///
        /// Works with any policy; 0.7 is a good value. Needs a pack with a quiet unit and a head on h⁰.
        #[arg(long, value_name = "0..1", help_heading = "Exit policy")]
        pub gate: Option<f32> = Policy,
        /// Chunks after speech that the gate always passes [default: 2]
        #[arg(long, value_name = "CHUNKS", help_heading = "Exit policy")]
        pub gate_hangover: Option<usize> = Policy,
        /// Maximum delay after the last sample of a chunk; it exits early to meet it
        ///
        /// Works with any policy.
        #[arg(long, value_name = "MS", help_heading = "Exit policy")]
        pub deadline: Option<u64> = Policy,

        /// Output for the representations; repeatable [default: jsonl]
        ///
        /// jsonl, jsonl:FILE           one line of JSON per chunk
        /// npy:FILE                    all frames as a NumPy array
        /// wav:FILE, wav:f32:FILE      the processed audio as 16-bit PCM or 32-bit float
        /// phones                      phones as text, as they become certain
        /// phones:FILE                 phones as JSON lines
        /// segments                    one line of JSON per utterance
        /// segments:FOLDER             the same, with each utterance as WAV and NPY
        /// segments:stream:ENDPOINT    utterances with audio and vectors as a binary stream
        /// stream:ENDPOINT             chunks as a binary stream
        /// keyword                     detections of all enrolled keywords
        /// keyword:NAME-or-FOLDER      detections of one keyword, or of those in a folder
        /// null                        no output
        ///
        /// `-` in place of FILE is standard output. An ENDPOINT is `-` or `unix:/path/to/socket`.
        #[arg(long, value_name = "CONSUMER", verbatim_doc_comment, help_heading = "Output")]
        #[serde(default, deserialize_with = "texts")]
        pub consumer: Vec<OsString> = Consumers,
        /// Include the vectors in JSON lines
        #[arg(long, help_heading = "Output")]
        #[serde(default)]
        pub with_vectors: bool = Output,
        /// Include the most probable unit of each frame in JSON lines
        #[arg(long, help_heading = "Output")]
        #[serde(default)]
        pub with_units: bool = Output,
        /// Folder of keywords [default: $BELLIS_KEYWORDS or ~/.local/share/bellis/keywords]
        #[arg(long, value_name = "FOLDER", help_heading = "Keywords")]
        pub keywords: Option<PathBuf> = Restart,
        /// False accepts per hour and keyword [default: as enrolled]
        #[arg(long, value_name = "PER-HOUR", help_heading = "Keywords")]
        pub false_accepts: Option<f64> = Output,
        /// Sensitivity, 0 to 1: 0.05 to 5 false accepts per hour and keyword [default: as enrolled]
        #[arg(long, value_name = "SENSITIVITY", help_heading = "Keywords", conflicts_with = "false_accepts")]
        pub sensitivity: Option<f64> = Output,
        /// Also report near misses from this score, 0 to 1
        #[arg(long, value_name = "SCORE", help_heading = "Keywords")]
        pub near_misses: Option<f32> = Output,
        /// Seconds without a second detection of the same keyword [default: 1]
        #[arg(long, value_name = "SECONDS", help_heading = "Keywords")]
        pub refractory: Option<f64> = Output,
        /// Width of the prefix beam search for phones [default: greedy]
        #[arg(long, value_name = "WIDTH", help_heading = "Phones, utterances, streams")]
        pub beam: Option<usize> = Output,
        /// Minimum speech in an utterance, milliseconds [default: 100]
        #[arg(long, value_name = "MS", help_heading = "Phones, utterances, streams")]
        pub least_speech: Option<f64> = Output,
        /// Minimum frames with a phone in an utterance; 0 ignores phones [default: 2]
        #[arg(long, value_name = "COUNT", help_heading = "Phones, utterances, streams")]
        pub least_phones: Option<usize> = Output,
        /// Silence that ends an utterance, milliseconds [default: 500]
        #[arg(long, value_name = "MS", help_heading = "Phones, utterances, streams")]
        pub hangover: Option<f64> = Output,
        /// Audio kept before and after an utterance, milliseconds [default: 200]
        #[arg(long, value_name = "MS", help_heading = "Phones, utterances, streams")]
        pub pad: Option<f64> = Output,
        /// Maximum length of an utterance, seconds [default: 30]
        ///
        /// A longer one is cut at the quietest frame of its last fifth.
        #[arg(long, value_name = "SECONDS", help_heading = "Phones, utterances, streams")]
        pub longest: Option<f64> = Output,
        /// Arrays in messages of `stream`, separated by commas [default: vectors]
        #[arg(long, value_parser = values::array(), value_delimiter = ',', value_name = "ARRAYS", help_heading = "Phones, utterances, streams")]
        #[serde(default)]
        pub arrays: Vec<ArrayName> = Output,
        /// Number format of `stream` [default: f32]
        #[arg(long, value_parser = values::float_type(), value_name = "TYPE", help_heading = "Phones, utterances, streams")]
        pub float: Option<FloatType> = Output,
        /// Also write the summary to this file, as JSON, or as a page of .html
        #[arg(long, value_name = "FILE", help_heading = "Output")]
        pub report: Option<PathBuf> = Restart,
        /// Suppress the summary and the progress bar
        #[arg(long, short, help_heading = "Output")]
        #[serde(default)]
        pub quiet: bool = Restart,

        /// Microphone, by id or part of its name (see `bellis devices`)
        ///
        /// Takes the names of `arecord -D` as well: `plughw:1,0`, `hw:CARD=seeed,DEV=0`, `default`, a PCM of `.asoundrc`.
        #[arg(long, value_name = "DEVICE", help_heading = "Audio")]
        pub device: Option<String> = Restart,
        /// Sample rate of raw PCM [default: 16000] or of the microphone, Hz
        #[arg(long, value_name = "HZ", help_heading = "Audio")]
        pub rate: Option<u32> = Restart,
        /// Channels of raw PCM [default: 1] or of the microphone
        #[arg(long, value_name = "COUNT", help_heading = "Audio")]
        pub channels: Option<u16> = Restart,
        /// Sample format of raw PCM [default: s16le]
        #[arg(long, value_parser = values::pcm_format(), help_heading = "Audio")]
        pub format: Option<PcmFormat> = Restart,
        /// Channel to use, from 1, or `auto` [default: the mean of all]
        ///
        /// `auto` leaves out dead channels and inverts those in antiphase; see docs/microphones.md.
        #[arg(long, value_name = "NUMBER", help_heading = "Audio")]
        pub channel: Option<Channel> = Restart,
        /// Buffer size of the microphone, milliseconds [default: 20]
        #[arg(long, value_name = "MS", help_heading = "Audio")]
        pub buffer: Option<u64> = Restart,
        /// Gain, decibels, -60 to 60, or `auto` [default: 0]
        ///
        /// `auto` raises quiet speech to about -30 dBFS; see docs/microphones.md.
        #[arg(long, value_name = "DB", allow_hyphen_values = true, help_heading = "Audio")]
        pub gain_db: Option<Gain> = Restart,
        /// Process a file in real time, like live audio
        #[arg(long, help_heading = "Audio")]
        #[serde(default)]
        pub realtime: bool = Restart,
        /// Seconds of audio to buffer before live audio is dropped [default: 2]
        #[arg(long, value_name = "SECONDS", help_heading = "Audio")]
        pub ring: Option<f64> = Restart,

        /// Other machines: flags, or the table `[neighbours]`
        #[command(flatten)]
        #[serde(default)]
        pub neighbours: NeighbourArgs = Neighbours,

        /// Address of the metrics; a flag of `bellis serve`
        #[arg(skip)]
        pub metrics: Option<String> = Restart,
        /// File with the token of the live page; a flag of `bellis serve`
        #[arg(skip)]
        pub page_token_file: Option<PathBuf> = Restart,
        /// Address of the Wyoming service; a flag of `bellis serve`
        #[arg(skip)]
        pub wyoming: Option<String> = Restart,
        /// Maximum number of Wyoming connections; a flag of `bellis serve`
        #[arg(skip)]
        pub wyoming_connections: Option<usize> = Restart,
        /// The table `[mqtt]` of `bellis serve`
        #[arg(skip)]
        pub mqtt: Option<MqttSettings> = Restart,
        /// Program and arguments for each detected keyword; a setting of `bellis serve`
        #[arg(skip)]
        #[serde(default)]
        pub on_detection: Vec<String> = Restart,
        /// Maximum time of that program, seconds; a setting of `bellis serve`
        #[arg(skip)]
        pub on_detection_limit: Option<f64> = Restart,
        /// Address of a Linux Voice Assistant; a setting of `bellis serve`
        #[arg(skip)]
        pub voice_assistant: Option<String> = Restart,
        /// Real-time priority; a flag of `bellis serve`
        #[arg(skip)]
        pub priority: Option<u8> = Restart,
    }
}

impl Settings {
    /// Reads a configuration file.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        Ok(bellis::internal::read_toml(path, CONFIG_LIMIT_BYTES)?)
    }

    /// Options for loading the pack.
    pub fn load_options(&self) -> LoadOptions {
        let mut options = LoadOptions::default();
        options.gap_fill = self.gap_fill;
        options.precision = self.precision.unwrap_or(options.precision);
        options.kernels = self.kernels;
        options.threads = self.threads.unwrap_or(options.threads);
        options
    }

    /// Builds the requested policy. Errors name the flag of the parameter, or the command that shows the policies of a pack.
    pub fn policy(&self, pack: &Pack) -> anyhow::Result<Box<dyn ExitPolicy>> {
        self.policy_spec().build(pack).map_err(|error| match &error {
            PolicyError::Missing { parameter: Some(parameter), .. } | PolicyError::Invalid { parameter: Some(parameter), .. } => {
                anyhow!("{error} (--{})", parameter.replace('_', "-"))
            }
            PolicyError::Missing { .. } => {
                let pack = self.pack.as_deref().unwrap_or(Path::new(locate::DEFAULT_PACK)).display();
                anyhow!("{error}; `bellis inspect {pack}` shows the policies of the pack")
            }
            _ => error.into(),
        })
    }

    /// The folder of the pack.
    pub fn pack_folder(&self) -> anyhow::Result<PathBuf> {
        locate::pack(self.pack.as_deref().unwrap_or(Path::new(locate::DEFAULT_PACK)))
    }

    /// The requested policy.
    pub fn policy_spec(&self) -> PolicySpec {
        let mut spec = PolicySpec::default();
        spec.name = self.policy;
        spec.threshold = self.threshold.clone();
        spec.measure = self.measure;
        spec.layer = self.layer;
        spec.range = self.range;
        spec.period = self.period;
        spec.agreement = self.agreement;
        spec.gate = self.gate;
        spec.gate_hangover = self.gate_hangover;
        spec.deadline_ms = self.deadline;
        spec
    }

    /// Channel selection.
    pub fn channel_pick(&self) -> anyhow::Result<ChannelPick> {
        self.channel.map_or(Ok(ChannelPick::MixDown), Channel::pick)
    }

    /// The input.
    pub fn input(&self) -> Input<'_> {
        match self.input.as_deref() {
            None if self.device.is_some() => Input::Microphone,
            None => Input::Sample,
            Some(path) if path == Path::new("none") => Input::None,
            Some(path) if path == Path::new("mic") => Input::Microphone,
            Some(path) if path == Path::new("-") => Input::Stdin,
            Some(path) => Input::File(path),
        }
    }

    /// Frames per chunk.
    pub fn chunk_frames(&self, hop_ms: f64, default: usize) -> anyhow::Result<usize> {
        chunk_frames(self.chunk, hop_ms, default)
    }
}

/// Frames of a chunk of so many milliseconds, if a length is given.
pub fn chunk_frames(milliseconds: Option<f64>, hop_ms: f64, default: usize) -> anyhow::Result<usize> {
    let Some(milliseconds) = milliseconds else { return Ok(default) };
    let frames = milliseconds / hop_ms;
    let whole = frames.round();
    if !(1.0..=1e6).contains(&whole) || (frames - whole).abs() > 1e-6 {
        bail!("--chunk must be a multiple of {hop_ms} ms (one frame), got {milliseconds}");
    }
    Ok(whole as usize)
}

fn per_layer(text: &str) -> anyhow::Result<PerLayer> {
    let values: Vec<f32> = text
        .split(',')
        .map(|part| part.trim().parse().with_context(|| format!("`{part}` is not a number")))
        .collect::<anyhow::Result<_>>()?;
    Ok(match values[..] {
        [value] => PerLayer::All(value),
        _ => PerLayer::Each(values),
    })
}

pub fn range(text: &str) -> anyhow::Result<(usize, usize)> {
    let (first, last) = text.split_once("..").context("expected FIRST..LAST, such as 4..7")?;
    Ok((first.trim().parse()?, last.trim().parse()?))
}
