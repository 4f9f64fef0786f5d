//! What `bellis run` and `bellis serve` can be told, by flags or by a TOML file with the same names; flags win.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bellis::audio::{ChannelPick, PcmFormat};
use bellis::consumer::stream::{ArrayName, FloatType};
use bellis::engine::{LoadOptions, Precision};
use bellis::exit::{Measure, PolicyName, PolicySpec};
use bellis::pack::{GapFill, PerLayer};
use clap::Args;
use serde::Deserialize;

use super::values;

/// A TOML configuration has at most this many bytes.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// Which vectors the representation carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VectorsName {
    /// The exit layer's state
    Last,
    /// DAISY's weighted mixture of the states up to the exit layer
    Mixture,
}

/// What a reload of `bellis serve` does with a setting that has changed.
#[derive(PartialEq, Eq)]
enum Reload {
    /// Nothing: the change takes a restart.
    Restart,
    /// Replaces the policy.
    Policy,
    /// Replaces the policy; another policy on the command line makes the file's value void.
    Parameter,
    /// Starts and stops consumers.
    Consumers,
    /// Starts the consumers again: they may depend on it.
    Output,
}

/// A value that may be given in two layers.
trait Layer {
    /// This value, or that of the layer below if this one is not given.
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

/// Defines the settings, each with what a reload does with it, and everything that goes through all of them.
macro_rules! settings {
    ($(#[$attribute:meta])* pub struct Settings { $($(#[$meta:meta])* pub $field:ident: $type:ty = $reload:ident,)* }) => {
        $(#[$attribute])*
        pub struct Settings {
            $($(#[$meta])* pub $field: $type,)*
        }

        impl Settings {
            /// These settings over those of `file`: a value that is not given here is taken from there.
            pub fn over(self, file: Self) -> Self {
                let other_policy = self.policy.is_some();
                Self {
                    $($field: match Reload::$reload {
                        Reload::Parameter if other_policy => self.$field,
                        _ => self.$field.over(file.$field),
                    },)*
                }
            }

            /// Keys that differ from `other` and whose change takes a restart of `bellis serve`.
            pub fn changes_for_a_restart(&self, other: &Self) -> Vec<String> {
                let mut keys = Vec::new();
                $(if Reload::$reload == Reload::Restart && self.$field != other.$field {
                    keys.push(stringify!($field).replace('_', "-"));
                })*
                keys
            }

            /// These settings without the policy and the list of consumers: what the consumers may depend on.
            pub fn of_consumers(&self) -> Self {
                let mut rest = self.clone();
                $(if matches!(Reload::$reload, Reload::Policy | Reload::Parameter | Reload::Consumers) {
                    rest.$field = Default::default();
                })*
                rest
            }
        }
    };
}

settings! {
    /// Every setting; all optional, so that a file and the flags can be laid over each other.
    #[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    pub struct Settings {
        /// A sound file (WAV, FLAC, Ogg Vorbis, MP3), `-` for raw PCM on standard input, or `mic`
        ///
        /// Without one, the recording that comes with Bellis is played.
        pub input: Option<String> = Restart,

        /// The pack: its folder, or the name of a bundled one
        #[arg(long, value_name = "PACK", help_heading = "Model")]
        pub pack: Option<PathBuf> = Restart,
        /// New sound per chunk, milliseconds: the latency, and the unit in which depth is chosen
        #[arg(long, value_name = "MS", help_heading = "Model")]
        pub chunk: Option<f64> = Restart,
        /// Which vectors the representation carries
        #[arg(long, value_enum, help_heading = "Model")]
        pub vectors: Option<VectorsName> = Output,
        /// How deeper layers get the keys and values of chunks that stopped early (cached packs)
        #[arg(long, value_parser = values::gap_fill(), help_heading = "Model")]
        pub gap_fill: Option<GapFill> = Restart,
        /// In how many bits products with the layers' weights are computed; `auto` where not said
        ///
        /// There is no f16: processors that compute in it have products of 8 bits as well, which are faster.
        #[arg(long, value_parser = values::precision(), help_heading = "Model")]
        pub precision: Option<Precision> = Restart,
        /// Threads that compute wide products in f32 (packs of 768, as HuBERT-base), 1 to 64 [default: 1]
        ///
        /// All but the first help only while a core has nothing else to do. What comes out is the same to the bit.
        #[arg(long, value_name = "COUNT", help_heading = "Model")]
        pub threads: Option<usize> = Restart,

        /// When a chunk has been computed deep enough
        #[arg(long, value_parser = values::policy(), help_heading = "Exit policy")]
        pub policy: Option<PolicyName> = Policy,
        /// The policy's threshold; several, separated by commas, are one per layer
        #[arg(long, value_name = "NUMBER", value_parser = per_layer, allow_hyphen_values = true, help_heading = "Exit policy")]
        pub threshold: Option<PerLayer> = Parameter,
        /// What `threshold`, `range` and `ctc` compare with the threshold
        #[arg(long, value_parser = values::measure(), help_heading = "Exit policy")]
        pub measure: Option<Measure> = Parameter,
        /// Layer of `fixed` and `periodic`
        #[arg(long, help_heading = "Exit policy")]
        pub layer: Option<usize> = Parameter,
        /// First and last layer of `range`
        #[arg(long, value_name = "FIRST..LAST", value_parser = range, help_heading = "Exit policy")]
        pub range: Option<(usize, usize)> = Parameter,
        /// Chunks between two full-depth ones of `periodic`
        #[arg(long, value_name = "CHUNKS", help_heading = "Exit policy")]
        pub period: Option<usize> = Parameter,
        /// Agreement with full depth that `calibrated` promises
        #[arg(long, value_name = "0..1", help_heading = "Exit policy")]
        pub agreement: Option<f32> = Parameter,
        /// Stop before the first layer where h⁰ says with this probability that nobody speaks (0.7, say), with any policy
        #[arg(long, value_name = "0..1", help_heading = "Exit policy")]
        pub gate: Option<f32> = Policy,
        /// Chunks after speech that the gate lets through [default: 2]
        #[arg(long, value_name = "CHUNKS", help_heading = "Exit policy")]
        pub gate_hangover: Option<usize> = Policy,
        /// Stop a chunk rather than be later than this after its last sample, with any policy
        #[arg(long, value_name = "MS", help_heading = "Exit policy")]
        pub deadline: Option<u64> = Policy,

        /// Where the representations go; may be given several times
        ///
        /// jsonl, jsonl:FILE           a line per chunk
        /// npy:FILE                    all frames as a NumPy array
        /// wav:FILE                    the sound that was computed
        /// phones                      phones as they become certain, to read along
        /// phones:FILE                 the same as JSON lines (`phones:-`: on standard output)
        /// segments                    a JSON line per utterance
        /// segments:FOLDER             the same, and each utterance as WAV and NPY
        /// segments:stream:ENDPOINT    utterances with sound and vectors as a binary stream
        /// stream:ENDPOINT             chunks as a binary stream; an ENDPOINT is `-` or `unix:/path/of/a/socket`
        /// keyword                     detections of enrolled keywords; keyword:FILE-or-FOLDER: of those
        /// null                        nowhere
        #[arg(long, value_name = "CONSUMER", verbatim_doc_comment, help_heading = "Output")]
        #[serde(default)]
        pub consumer: Vec<String> = Consumers,
        /// Put the vectors into the JSON lines
        #[arg(long, help_heading = "Output")]
        #[serde(default)]
        pub with_vectors: bool = Output,
        /// Put the likeliest unit of each frame into the JSON lines
        #[arg(long, help_heading = "Output")]
        #[serde(default)]
        pub with_units: bool = Output,
        /// Expect so many false accepts an hour of each keyword, instead of the rate that it was enrolled for
        #[arg(long, value_name = "PER-HOUR", help_heading = "Keywords")]
        pub false_accepts: Option<f64> = Output,
        /// Tell near misses, too: what scores at least this (0 to 1) but not enough to fire
        #[arg(long, value_name = "SCORE", help_heading = "Keywords")]
        pub near_misses: Option<f32> = Output,
        /// Seconds after a detection in which the same keyword does not fire again
        #[arg(long, value_name = "SECONDS", help_heading = "Keywords")]
        pub refractory: Option<f64> = Output,
        /// Read phones by a prefix beam of this width; each frame's likeliest without it
        #[arg(long, value_name = "WIDTH", help_heading = "Phones, utterances, streams")]
        pub beam: Option<usize> = Output,
        /// Speech of less than this is no utterance
        #[arg(long, value_name = "MS", help_heading = "Phones, utterances, streams")]
        pub least_speech: Option<f64> = Output,
        /// Quiet of so long ends an utterance
        #[arg(long, value_name = "MS", help_heading = "Phones, utterances, streams")]
        pub hangover: Option<f64> = Output,
        /// Sound kept before and after the speech of an utterance
        #[arg(long, value_name = "MS", help_heading = "Phones, utterances, streams")]
        pub pad: Option<f64> = Output,
        /// A longer utterance is cut where it is quietest
        #[arg(long, value_name = "SECONDS", help_heading = "Phones, utterances, streams")]
        pub longest: Option<f64> = Output,
        /// What a message of `stream` holds: vectors without it
        #[arg(long, value_parser = values::array(), value_delimiter = ',', value_name = "ARRAYS", help_heading = "Phones, utterances, streams")]
        #[serde(default)]
        pub arrays: Vec<ArrayName> = Output,
        /// Numbers of `stream`: f32 without it
        #[arg(long, value_parser = values::float_type(), value_name = "TYPE", help_heading = "Phones, utterances, streams")]
        pub float: Option<FloatType> = Output,
        /// Write the summary as JSON to this file, too
        #[arg(long, value_name = "FILE", help_heading = "Output")]
        pub report: Option<PathBuf> = Restart,
        /// Print no summary and no progress
        #[arg(long, short, help_heading = "Output")]
        #[serde(default)]
        pub quiet: bool = Output,

        /// The microphone, by its id or part of its name (`bellis devices` lists them)
        #[arg(long, value_name = "DEVICE", help_heading = "Sound")]
        pub device: Option<String> = Restart,
        /// Rate, Hz: of raw PCM (16000 by default), or asked of the microphone
        #[arg(long, value_name = "HZ", help_heading = "Sound")]
        pub rate: Option<u32> = Restart,
        /// Channels: of raw PCM (1 by default), or asked of the microphone
        #[arg(long, value_name = "COUNT", help_heading = "Sound")]
        pub channels: Option<u16> = Restart,
        /// Format of raw PCM
        #[arg(long, value_parser = values::pcm_format(), help_heading = "Sound")]
        pub format: Option<PcmFormat> = Restart,
        /// Take this channel, counted from 1, instead of the mean of all
        #[arg(long, value_name = "NUMBER", help_heading = "Sound")]
        pub channel: Option<u16> = Restart,
        /// The microphone's buffer, milliseconds
        #[arg(long, value_name = "MS", help_heading = "Sound")]
        pub buffer: Option<u64> = Restart,
        /// Play a file at its own pace, as if it were live
        #[arg(long, help_heading = "Sound")]
        #[serde(default)]
        pub realtime: bool = Restart,
        /// Seconds of sound that may wait for the encoder before live sound is dropped
        #[arg(long, value_name = "SECONDS", help_heading = "Sound")]
        pub ring: Option<f64> = Restart,

        /// Where `bellis serve` shows its metrics; a flag of that command
        #[arg(skip)]
        pub metrics: Option<String> = Restart,
        /// Real-time priority of `bellis serve`; a flag of that command
        #[arg(skip)]
        pub priority: Option<u8> = Restart,
    }
}

impl Settings {
    /// Reads a configuration file.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        Ok(bellis::internal::read_toml(path, CONFIG_LIMIT_BYTES)?)
    }

    /// How the pack is loaded.
    pub fn load_options(&self) -> LoadOptions {
        let mut options = LoadOptions::default();
        options.gap_fill = self.gap_fill;
        options.precision = self.precision.unwrap_or(options.precision);
        options.threads = self.threads.unwrap_or(options.threads);
        options
    }

    /// The policy asked for.
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

    /// How channels become one.
    pub fn channel_pick(&self) -> anyhow::Result<ChannelPick> {
        Ok(match self.channel {
            None => ChannelPick::MixDown,
            Some(0) => bail!("--channel counts from 1"),
            Some(channel) => ChannelPick::Channel(channel - 1),
        })
    }

    /// Frames of a chunk of the asked length.
    pub fn chunk_frames(&self, hop_ms: f64, default: usize) -> anyhow::Result<usize> {
        let Some(milliseconds) = self.chunk else { return Ok(default) };
        let frames = milliseconds / hop_ms;
        let whole = frames.round();
        if !(1.0..=1e6).contains(&whole) || (frames - whole).abs() > 1e-6 {
            bail!("--chunk {milliseconds}: a chunk is a whole number of frames of {hop_ms} ms");
        }
        Ok(whole as usize)
    }
}

fn per_layer(text: &str) -> anyhow::Result<PerLayer> {
    let values: Vec<f32> = text
        .split(',')
        .map(|part| part.trim().parse().with_context(|| format!("`{part}` is no number")))
        .collect::<anyhow::Result<_>>()?;
    Ok(match values[..] {
        [value] => PerLayer::All(value),
        _ => PerLayer::Each(values),
    })
}

fn range(text: &str) -> anyhow::Result<(usize, usize)> {
    let (first, last) = text.split_once("..").context("write it as 4..7")?;
    Ok((first.trim().parse()?, last.trim().parse()?))
}
