//! Audio files of every kind, and typed errors for damaged ones that name the file and the problem.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};

use bellis::audio::{
    AudioErrorKind, ChannelPick, FileSource, PcmFormat, PcmSource, Resampler, Source, SourceEvent, decode_file, decode_file_at,
};
use bellis::internal::{Block, events, ring};
use common::repository;

/// A second of two tones, left and right.
fn stereo(rate: u32) -> Vec<[f32; 2]> {
    let tone = |hertz: f32, n: u32| 0.5 * (std::f32::consts::TAU * hertz * n as f32 / rate as f32).sin();
    (0..rate).map(|n| [tone(300.0, n), tone(700.0, n)]).collect()
}

fn write_wav(path: &Path, bits: u16, float: bool, rate: u32) {
    let sample_format = if float { hound::SampleFormat::Float } else { hound::SampleFormat::Int };
    let spec = hound::WavSpec { channels: 2, sample_rate: rate, bits_per_sample: bits, sample_format };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in stereo(rate).into_iter().flatten() {
        match float {
            true => writer.write_sample(sample).unwrap(),
            false => writer.write_sample((sample * ((1i64 << (bits - 1)) - 1) as f32) as i32).unwrap(),
        }
    }
    writer.finalize().unwrap();
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn wav_of_every_kind_at_any_rate_as_mix_or_single_channel() {
    let folder = folder();
    for (bits, float, tolerance) in [(8, false, 0.013), (16, false, 1e-4), (24, false, 1e-6), (32, false, 1e-6), (32, true, 1e-7)]
    {
        for rate in [8_000, 44_100, 96_000] {
            let path = folder.path().join(format!("{bits}-{float}-{rate}.wav"));
            write_wav(&path, bits, float, rate);
            for (pick, expected) in [
                (ChannelPick::MixDown, (|[l, r]: [f32; 2]| (l + r) / 2.0) as fn([f32; 2]) -> f32),
                (ChannelPick::Channel(0), |[l, _]| l),
                (ChannelPick::Channel(1), |[_, r]| r),
            ] {
                let (samples, found_rate) = decode_file(&path, pick).unwrap();
                assert_eq!((found_rate, samples.len()), (rate, rate as usize));
                let expected: Vec<f32> = stereo(rate).into_iter().map(expected).collect();
                let worst = common::deviation(&samples, &expected);
                assert!(worst <= tolerance, "{bits} bits, float {float}, {rate} Hz, {pick:?}: {worst}");
            }
        }
    }
}

/// Reading a file block by block at another rate equals resampling all of it at once.
#[test]
fn a_file_at_another_rate_is_complete() {
    let path = repository("tests/data/audio/speech.flac");
    let (samples, own) = decode_file(&path, ChannelPick::MixDown).unwrap();
    for rate in [19_200, 16_000, 13_333] {
        let (mut resampler, mut expected) = (Resampler::new(own, rate).unwrap(), Vec::new());
        resampler.push(&samples, &mut expected);
        resampler.finish(&mut expected);
        let found = decode_file_at(&path, ChannelPick::MixDown, rate).unwrap();
        assert!(found == expected, "{rate} Hz: {} samples instead of {}", found.len(), expected.len());
    }
}

#[test]
fn flac_is_exact_and_ogg_and_mp3_are_close() {
    let (wav, _) = decode_file(&repository("tests/data/audio/speech.wav"), ChannelPick::MixDown).unwrap();
    for (name, least_ratio_db) in [("speech.flac", f64::INFINITY), ("speech.ogg", 10.0), ("speech.mp3", 10.0)] {
        let (found, rate) = decode_file(&repository("tests/data/audio").join(name), ChannelPick::MixDown).unwrap();
        assert_eq!(rate, 16_000, "{name}");
        let is_exact = least_ratio_db == f64::INFINITY;
        assert!(if is_exact { found.len() == wav.len() } else { found.len() >= wav.len() }, "{name}: {} samples", found.len());
        // Encoders add padding, so compare at the best alignment.
        let ratio = (0..2_400.min(found.len() - wav.len() + 1))
            .map(|shift| {
                let noise: f64 = wav.iter().zip(&found[shift..]).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                10.0 * (wav.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() / noise).log10()
            })
            .fold(f64::NEG_INFINITY, f64::max);
        println!("{name}: {ratio:.1} dB");
        assert!(ratio >= least_ratio_db, "{name}: {ratio}");
    }
}

/// Plays a source to its end: its samples and its last event.
fn play(mut source: impl Source) -> (Vec<f32>, SourceEvent) {
    let (writer, mut reader) = ring(1 << 20, source.spec().sample_rate);
    let (sender, receiver) = events();
    source.start(writer, sender).unwrap();
    let event = receiver.receiver().recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    source.stop();
    let (mut samples, mut block) = (Vec::new(), [0.0; 4_096]);
    while let Block::Samples(read) = reader.read(&mut block) {
        samples.extend_from_slice(read);
    }
    (samples, event)
}

#[test]
fn a_truncated_wav_delivers_its_samples_and_is_reported() {
    let folder = folder();
    let (whole, cut) = (folder.path().join("whole.wav"), folder.path().join("cut.wav"));
    write_wav(&whole, 16, false, 16_000);
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let (expected, _) = decode_file(&whole, ChannelPick::MixDown).unwrap();
    let (samples, event) = play(FileSource::open(&cut, ChannelPick::MixDown, false).unwrap());
    assert!(samples.len() > 7_900 && samples.len() <= 8_000, "{}", samples.len());
    assert_eq!(samples, expected[..samples.len()]);
    let SourceEvent::Error(error) = event else { panic!("{event:?}") };
    assert_eq!(error.kind(), AudioErrorKind::Damaged);
    assert!(error.to_string().contains("cut.wav") && error.to_string().contains("cut off"), "{error}");
}

#[test]
fn invalid_files_are_refused_by_name_and_reason() {
    let folder = folder();
    let path = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    write_wav(&folder.path().join("good.wav"), 16, false, 16_000);
    let good = std::fs::read(folder.path().join("good.wav")).unwrap();
    let mut no_channels = good.clone();
    no_channels[22..24].copy_from_slice(&[0, 0]);
    let mut no_data = good[..44].to_vec();
    no_data[40..44].copy_from_slice(&[0; 4]);
    let mut noise: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    noise[0] = 0;
    let cases = [
        (path("empty.wav", b""), AudioErrorKind::Malformed, "empty"),
        (
            path("text.wav", b"these are words, not audio, however long the file is\n".repeat(40).as_slice()),
            AudioErrorKind::Malformed,
            "is not in a supported audio format",
        ),
        (path("noise.mp3", &noise), AudioErrorKind::Malformed, ""),
        (path("no-channels.wav", &no_channels), AudioErrorKind::Malformed, ""),
        (path("no-data.wav", &no_data), AudioErrorKind::Malformed, "no samples"),
        (path("header.wav", &good[..20]), AudioErrorKind::Malformed, ""),
        (folder.path().join("missing.wav"), AudioErrorKind::NotReadable, "No such file"),
        (folder.path().to_owned(), AudioErrorKind::NotReadable, "folder"),
    ];
    for (path, kind, expected) in cases {
        let error = decode_file(&path, ChannelPick::MixDown).expect_err(&format!("{} was read", path.display()));
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains(expected), "{text}");
        // What is not audio may be in an unknown format.
        let unsupported = kind == AudioErrorKind::Malformed && error.kind() == AudioErrorKind::Unsupported;
        assert!(error.kind() == kind || unsupported, "{text}: {:?}", error.kind());
    }
    let error = decode_file(&folder.path().join("good.wav"), ChannelPick::Channel(2)).unwrap_err();
    assert!(error.to_string().contains("channel 3"), "{error}");
}

#[test]
fn no_corruption_of_a_file_causes_a_panic() {
    let folder = folder();
    for name in ["speech.wav", "speech.flac", "speech.ogg", "speech.mp3"] {
        let good = std::fs::read(repository("tests/data/audio").join(name)).unwrap();
        for round in 0..60usize {
            let mut bytes = good.clone();
            for step in 0..1 + round % 8 {
                let at = (round * 7_919 + step * 104_729) % bytes.len().min(if round % 2 == 0 { 300 } else { usize::MAX });
                bytes[at] ^= (1 + round * 31 + step) as u8;
            }
            let path = folder.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(source) = FileSource::open(&path, ChannelPick::MixDown, false) {
                let (_, event) = play(source);
                assert!(matches!(event, SourceEvent::End | SourceEvent::Error(_)));
            }
        }
    }
}

#[test]
fn raw_pcm_of_every_format_with_reads_of_any_size() {
    struct Dribble(Vec<u8>, usize);
    impl std::io::Read for Dribble {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1 % 97 + 1;
            let count = self.1.min(out.len()).min(self.0.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }
    let audio: Vec<f32> = stereo(8_000).into_iter().flatten().collect();
    let mono: Vec<f32> = stereo(8_000).into_iter().map(|[l, r]| (l + r) / 2.0).collect();
    let whole = |scale: f32| audio.iter().map(move |s| (s * scale) as i32);
    let cases: [(PcmFormat, Vec<u8>, f32); 5] = [
        (PcmFormat::U8, whole(127.0).map(|s| (s + 128) as u8).collect(), 0.02),
        (PcmFormat::S16le, whole(32_767.0).flat_map(|s| (s as i16).to_le_bytes()).collect(), 1e-4),
        (PcmFormat::S24le, whole(8_388_607.0).flat_map(|s| s.to_le_bytes()[..3].to_vec()).collect(), 1e-6),
        (PcmFormat::S32le, whole(2_147_483_000.0).flat_map(i32::to_le_bytes).collect(), 1e-6),
        (PcmFormat::F32le, audio.iter().flat_map(|s| s.to_le_bytes()).collect(), 1e-7),
    ];
    for (format, bytes, tolerance) in cases {
        let mut cut = bytes.clone();
        cut.push(1);
        let source = |bytes| PcmSource::new(Box::new(Dribble(bytes, 0)), "pipe", format, 8_000, 2, ChannelPick::MixDown).unwrap();
        let (samples, event) = play(source(bytes));
        assert_eq!(event, SourceEvent::End);
        assert!(common::deviation(&samples, &mono) <= tolerance, "{format:?}");
        // A stopped recorder leaves a partial frame, which is not an error.
        let (samples, event) = play(source(cut));
        assert_eq!((samples.len(), event), (mono.len(), SourceEvent::End));
    }
}

#[test]
fn an_idle_pipe_does_not_block_stop() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut source = PcmSource::new(Box::new(reader), "pipe", PcmFormat::S16le, 16_000, 1, ChannelPick::MixDown).unwrap();
    let (writer, _reader) = ring(100, 16_000);
    source.start(writer, events().0).unwrap();
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        source.stop();
        let _ = done.send(());
    });
    waits.recv_timeout(std::time::Duration::from_secs(20)).expect("stop() hangs");
}
