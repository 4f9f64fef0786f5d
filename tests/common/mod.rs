//! Helpers for the integration tests.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use bellis::engine::{Encoder, Frames, LoadOptions, Precision};
use bellis::internal::{Chunker, EncoderState};
use ndarray_npy::NpzReader;

/// The absolute path of a file in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A golden file: arrays by name, flattened, with their shapes.
pub struct Golden(NpzReader<std::fs::File>);

impl Golden {
    pub fn open(path: &Path) -> Self {
        let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(NpzReader::new(file).unwrap())
    }

    pub fn has(&mut self, name: &str) -> bool {
        self.0.names().unwrap().iter().any(|known| known.trim_end_matches(".npy") == name)
    }

    pub fn f32(&mut self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let array: ndarray::ArrayD<f32> = self.0.by_name(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        (array.shape().to_vec(), array.into_iter().collect())
    }

    /// An f64 array, or an f32 array converted to f64.
    pub fn f64(&mut self, name: &str) -> Vec<f64> {
        match self.0.by_name::<ndarray::OwnedRepr<f64>, ndarray::IxDyn>(name) {
            Ok(array) => array.into_iter().collect(),
            Err(_) => self.f32(name).1.into_iter().map(f64::from).collect(),
        }
    }

    pub fn i64(&mut self, name: &str) -> Vec<i64> {
        let array: ndarray::ArrayD<i64> = self.0.by_name(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        array.into_iter().collect()
    }
}

/// Largest absolute difference; fails on a difference in length or a NaN.
pub fn deviation(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len(), "lengths differ");
    actual.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, one| {
        assert!(!one.is_nan(), "NaN");
        worst.max(one)
    })
}

/// The same in units of the root mean square of `expected`, if that is more than 1: rounding errors grow with the values.
pub fn relative_deviation(actual: &[f32], expected: &[f32]) -> f32 {
    let mean = expected.iter().map(|x| x * x).sum::<f32>() / expected.len().max(1) as f32;
    deviation(actual, expected) / mean.sqrt().max(1.0)
}

/// All layers of one chunk: features h⁰ … h^L and the outputs of the branches.
pub struct FullChunk {
    pub features: Vec<Frames>,
    /// Logits of every head, first of the head on h⁰ if the pack has one.
    pub logits: Vec<Frames>,
    /// Forecast of ln KL(p_L ‖ p_k) by each predictor.
    pub forecasts: Vec<f32>,
}

/// Streams `audio` through every layer, without exits.
pub fn never_exit(encoder: &std::sync::Arc<Encoder>, audio: &[f32], chunk_frames: usize) -> Vec<FullChunk> {
    let mut chunker = Chunker::new(encoder, chunk_frames);
    let mut state = EncoderState::new(encoder).unwrap();
    chunker.push(audio);
    chunker.finish();
    let mut chunks = Vec::new();
    while let Some(chunk) = chunker.next_chunk() {
        let mut pass = state.begin(chunk.audio, chunk.span).unwrap();
        let (mut logits, mut forecasts) = (Vec::new(), Vec::new());
        for depth in 0..=encoder.layers() {
            if depth > 0 {
                pass.step().unwrap();
            }
            if depth > 0 || encoder.may_exit_at_frontend() {
                logits.push(pass.head().unwrap());
            }
            forecasts.extend(pass.forecast().ok().map(|forecast| forecast.as_slice()[0]));
        }
        chunks.push(FullChunk { features: pass.features().to_vec(), logits, forecasts });
        pass.finish();
    }
    chunks
}

/// A consumer that collects all representations.
#[derive(Clone, Default)]
pub struct Collect(pub std::sync::Arc<std::sync::Mutex<Vec<bellis::stream::Representation>>>);

impl bellis::consumer::Consumer for Collect {
    fn name(&self) -> &str {
        "collect"
    }

    fn consume(&mut self, representation: &bellis::stream::Representation) -> Result<(), bellis::consumer::ConsumerError> {
        self.0.lock().unwrap().push(representation.clone());
        Ok(())
    }

    fn on_overflow(&self, _live: bool) -> bellis::consumer::OnOverflow {
        bellis::consumer::OnOverflow::Block
    }
}

impl Collect {
    pub fn take(&self) -> Vec<bellis::stream::Representation> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The bundled recording, 16 kHz.
pub fn speech() -> Vec<f32> {
    bellis::audio::decode_file(&repository("models/sample.wav"), bellis::audio::ChannelPick::MixDown).unwrap().0
}

/// The default pack and its encoder, loaded once for a test binary.
pub fn default_pack() -> &'static (bellis::pack::Pack, std::sync::Arc<Encoder>) {
    static LOADED: std::sync::OnceLock<(bellis::pack::Pack, std::sync::Arc<Encoder>)> = std::sync::OnceLock::new();
    LOADED.get_or_init(|| {
        let pack = bellis::pack::Pack::open(&repository("models/daisy-tiny")).unwrap();
        let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
        (pack, encoder)
    })
}

/// Writes `seconds` of speech as WAV, 16 bits at 16 kHz.
pub fn write_speech(path: &Path, seconds: usize) {
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in speech().iter().cycle().take(16_000 * seconds) {
        writer.write_sample((sample * 32_767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}
