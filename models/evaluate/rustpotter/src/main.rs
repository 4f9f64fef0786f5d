//! What rustpotter scores in a recording.
//!
//!     bellis-rustpotter scores AUDIO.wav KEYWORDS.tsv    a line per keyword and 2.5 s: keyword, best score, start, end
//!     bellis-rustpotter listen AUDIO.wav KEYWORDS.tsv    all keywords at once with rustpotter's defaults, as in practice
//!
//! A line of KEYWORDS.tsv is a name and its recordings, with tabs between. rustpotter tells the best score since it began to score, and
//! only a reset ends that: `scores` resets it every 2.5 s and begins each stretch a keyword's length before, so that no word is cut.
//! Its threshold is 0 then; sound that does not pass its first look (`avg_threshold`) scores 0, as it would never fire.
#![allow(clippy::unwrap_used)]

use rustpotter::{Rustpotter, RustpotterConfig, WakewordRef, WakewordRefBuildFromFiles};

const RATE: usize = 16_000;
const STRETCH: usize = 5 * RATE / 2;
/// rustpotter-cli's.
const COEFFICIENTS: u16 = 16;

fn keyword(line: &str) -> (String, WakewordRef) {
    let mut fields = line.split('\t').map(str::to_owned);
    let name = fields.next().unwrap();
    let made = WakewordRef::new_from_sample_files(name.clone(), None, None, fields.collect(), COEFFICIENTS);
    (name, made.unwrap())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut audio = hound::WavReader::open(&arguments[2]).unwrap();
    let samples: Vec<f32> = audio.samples::<i16>().map(|sample| f32::from(sample.unwrap()) / 32_768.0).collect();
    let list = std::fs::read_to_string(&arguments[3]).unwrap();
    let keywords = list.lines().map(keyword);
    match arguments[1].as_str() {
        "listen" => listen(&samples, keywords),
        _ => keywords.for_each(|(name, keyword)| scores(&samples, &name, keyword)),
    }
}

fn listen(samples: &[f32], keywords: impl Iterator<Item = (String, WakewordRef)>) {
    let mut potter = Rustpotter::new(&RustpotterConfig::default()).unwrap();
    keywords.for_each(|(name, keyword)| potter.add_wakeword_ref(&name, keyword).unwrap());
    for (index, block) in samples.chunks_exact(potter.get_samples_per_frame()).enumerate() {
        if let Some(found) = potter.process_samples(block.to_vec()) {
            let at = (index * block.len()) as f64 / RATE as f64;
            println!("{}\t{}\t{at}\t{at}", found.name, found.score);
        }
    }
}

fn scores(samples: &[f32], name: &str, keyword: WakewordRef) {
    let frames = keyword.samples_features.values().map(Vec::len).max().unwrap();
    let lead = (frames + 3) * RATE / 100;
    let mut config = RustpotterConfig::default();
    config.detector.threshold = 0.0;
    let mut potter = Rustpotter::new(&config).unwrap();
    potter.add_wakeword_ref(name, keyword).unwrap();
    for at in (0..samples.len()).step_by(STRETCH) {
        potter.reset();
        let (start, end) = (at.saturating_sub(lead), (at + STRETCH).min(samples.len()));
        let mut best = 0.0f32;
        for block in samples[start..end].chunks_exact(potter.get_samples_per_frame()) {
            let done = potter.process_samples(block.to_vec()).map_or(0.0, |found| found.score);
            best = best.max(done).max(potter.get_partial_detection().map_or(0.0, |found| found.score));
        }
        println!("{name}\t{best}\t{}\t{}", start as f64 / RATE as f64, end as f64 / RATE as f64);
    }
}
