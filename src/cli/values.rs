//! Parsers for the library's named values, with their help.

use std::str::FromStr;

use bellis::UnknownName;
use bellis::audio::PcmFormat;
use bellis::consumer::stream::{ArrayName, FloatType};
use bellis::engine::{Int8Kernel, Precision};
use bellis::exit::{Measure, PolicyName};
#[cfg(feature = "neighbours")]
use bellis::neighbour::Offloading;
use bellis::pack::GapFill;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// A parser of the values named in `help`.
fn named<T>(help: impl IntoIterator<Item = (&'static str, &'static str)>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownName> + Clone + Send + Sync + 'static,
{
    let values = help.into_iter().map(|(name, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<T>())
}

pub fn policy() -> impl TypedValueParser<Value = PolicyName> {
    named([
        (PolicyName::Threshold.name(), "DAISY: first layer whose head has a mean entropy of at most --threshold"),
        (PolicyName::Range.name(), "As `threshold`, on the layers of --range; the last is a forced exit"),
        (PolicyName::Fixed.name(), "Always --layer; no head runs"),
        (PolicyName::Periodic.name(), "--layer, and every --period-th chunk at full depth"),
        (PolicyName::Calibrated.name(), "Thresholds per layer, calibrated for --agreement with full depth"),
        (PolicyName::Ctc.name(), "HuBERT-EE: first layer whose CTC branch has an entropy of at most --threshold"),
        (PolicyName::Change.name(), "First layer that changes the head's distribution by at most --threshold (KL)"),
        (PolicyName::Gain.name(), "First layer with no predicted gain above --threshold per deeper layer (KL)"),
        (PolicyName::Never.name(), "Full depth, always"),
    ])
}

pub fn measure() -> impl TypedValueParser<Value = Measure> {
    named([
        (Measure::Entropy.name(), "Exit when the entropy is at most the threshold (DAISY)"),
        (Measure::MaxProb.name(), "Exit when the highest unit probability is at least the threshold"),
        (Measure::Margin.name(), "Exit when the two highest probabilities differ by at least the threshold"),
    ])
}

pub fn gap_fill() -> impl TypedValueParser<Value = GapFill> {
    named([
        (GapFill::CatchUp.name(), "Run the skipped layers: exact, but slower"),
        (GapFill::Project.name(), "Compute keys and values from the exit state: fast; needs a pack trained for it"),
    ])
}

pub fn precision() -> impl TypedValueParser<Value = Precision> {
    named([
        (Precision::Auto.name(), "int8 if the processor has instructions for it, else f32"),
        (Precision::F32.name(), "32-bit floats"),
        (Precision::Int8.name(), "8-bit weights and activations; f32 if the processor does not support it"),
    ])
}

pub fn kernels() -> impl TypedValueParser<Value = Int8Kernel> {
    named([
        (Int8Kernel::Avx512Vnni.name(), "AVX-512 VNNI (x86)"),
        (Int8Kernel::AvxVnni.name(), "AVX-VNNI (x86)"),
        (Int8Kernel::DotProduct.name(), "Dot product (Arm: Cortex-A55, A76 and newer)"),
        (Int8Kernel::Neon.name(), "Widening multiplication (64-bit Arm)"),
    ])
}

#[cfg(feature = "neighbours")]
pub fn offloading() -> impl TypedValueParser<Value = Offloading> {
    named([
        (Offloading::Auto.name(), "Where the exchange is measured to process more audio per second"),
        (Offloading::Never.name(), "Never; no connection is made"),
        (Offloading::Always.name(), "After the first layer, whenever a neighbour is there"),
    ])
}

pub fn array() -> impl TypedValueParser<Value = ArrayName> {
    named([
        (ArrayName::Vectors.name(), "Vectors, [frames, dim]"),
        (ArrayName::Posteriors.name(), "Log-posteriors of the units at the exit layer, [frames, units]"),
        (ArrayName::Embedding.name(), "Keyword embeddings, [frames, width]"),
        (ArrayName::Ctc.name(), "Logits of the exit layer's CTC branch, [frames, classes]"),
        (ArrayName::Audio.name(), "The chunk's audio, [samples]"),
    ])
}

pub fn float_type() -> impl TypedValueParser<Value = FloatType> {
    named([
        (FloatType::F32.name(), "32 bits"),
        (FloatType::F16.name(), "16 bits (IEEE half precision): half the size, three digits"),
    ])
}

/// The formats with ffmpeg's names, and ALSA's names as aliases.
pub fn pcm_format() -> impl TypedValueParser<Value = PcmFormat> {
    let values = [
        (PcmFormat::U8, "U8", "Unsigned 8-bit (ALSA: U8)"),
        (PcmFormat::S16le, "S16_LE", "Signed 16-bit little-endian (ALSA: S16_LE)"),
        (PcmFormat::S24le, "S24_3LE", "Signed 24-bit little-endian, three bytes (ALSA: S24_3LE)"),
        (PcmFormat::S24In32, "s24_le", "Signed 24-bit in the low three of four bytes, as ALSA's S24_LE"),
        (PcmFormat::S32le, "S32_LE", "Signed 32-bit little-endian (ALSA: S32_LE)"),
        (PcmFormat::F32le, "FLOAT_LE", "32-bit float little-endian (ALSA: FLOAT_LE)"),
    ];
    let possible = values.map(|(format, alias, help)| PossibleValue::new(format.name()).alias(alias).help(help));
    PossibleValuesParser::new(possible).try_map(move |name| {
        let aliased = values.iter().find(|(_, alias, _)| *alias == name).map(|(format, ..)| *format);
        aliased.map_or_else(|| name.parse::<PcmFormat>(), Ok)
    })
}
