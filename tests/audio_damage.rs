//! Damaged and unfinished files: all readable audio is delivered at its position, and lost samples are counted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellis::audio::{AudioErrorKind, ChannelPick, FileSource, PcmFormat, RawLayout, Source, SourceEvent, decode_file, open_pipe};
use bellis::internal::{Block, Gap, events, ring};

fn data(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/audio").join(name)).unwrap()
}

/// The output of a source: samples in stream order with gaps as zeros, the gaps, and the final event.
struct Played {
    samples: Vec<f32>,
    rate: u32,
    gaps: Vec<Gap>,
    end: SourceEvent,
}

impl Played {
    #[track_caller]
    fn whole(self) -> Vec<f32> {
        assert_eq!((&self.end, &self.gaps[..]), (&SourceEvent::End, &[][..]));
        self.samples
    }

    #[track_caller]
    fn damage(&self) -> String {
        let SourceEvent::Error(error) = &self.end else { panic!("{:?}", self.end) };
        assert_eq!(error.kind(), AudioErrorKind::Damaged, "{error}");
        error.to_string()
    }
}

fn play(mut source: Box<dyn Source>) -> Played {
    let (writer, mut reader) = ring(1 << 22, source.spec().sample_rate);
    let (sender, receiver) = events();
    let rate = source.spec().sample_rate;
    source.start(writer, sender).unwrap();
    let end = receiver.receiver().recv_timeout(Duration::from_secs(60)).unwrap();
    source.stop();
    let (mut samples, mut gaps, mut block) = (Vec::new(), Vec::new(), [0.0; 4096]);
    loop {
        match reader.read(&mut block) {
            Block::Samples(read) => samples.extend_from_slice(read),
            Block::Gap(gap) => {
                assert_eq!(gap.position, samples.len() as u64);
                gaps.push(gap);
                samples.resize(samples.len() + gap.samples as usize, 0.0);
            }
            _ => break,
        }
    }
    let stats = reader.stats();
    assert_eq!(stats.captured(), stats.read() + stats.dropped());
    assert_eq!(stats.dropped(), gaps.iter().map(|gap| gap.samples).sum::<u64>());
    Played { samples, rate, gaps, end }
}

/// Plays `bytes` as a file and as a pipe, and requires equal results.
#[track_caller]
fn played(bytes: &[u8]) -> Played {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let actual = play(Box::new(FileSource::open(file.path(), ChannelPick::MixDown, false).unwrap()));
    let piped = play(pipe(bytes).unwrap());
    assert!(piped.samples == actual.samples && piped.gaps == actual.gaps && piped.rate == actual.rate);
    actual
}

fn raw(format: PcmFormat, is_given: bool) -> RawLayout {
    RawLayout { format, sample_rate: 16_000, channels: 1, is_given }
}

/// A reader that returns a few bytes at a time, like a pipe.
struct Dribble(Vec<u8>, usize);

impl Read for Dribble {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = &self.0[self.1..];
        let count = out.len().min(1 + self.1 * 7919 % 4001).min(left.len());
        out[..count].copy_from_slice(&left[..count]);
        self.1 += count;
        Ok(count)
    }
}

fn pipe(bytes: &[u8]) -> Result<Box<dyn Source>, bellis::audio::AudioError> {
    open_pipe(Box::new(Dribble(bytes.to_vec(), 0)), raw(PcmFormat::S16le, false), ChannelPick::MixDown, false)
}

/// Signal-to-noise ratio of `actual` relative to `expected`, dB.
#[track_caller]
fn ratio(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let noise: f64 = expected.iter().zip(actual).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (expected.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() / noise.max(1e-30)).log10()
}

fn tone(count: usize) -> Vec<f32> {
    (0..count).map(|n| 0.4 * (n as f32 * 0.07).sin()).collect()
}

/// A WAV file with a header of one's own.
struct Header {
    riff: u32,
    tag: u16,
    channels: u16,
    align: u16,
    bits: u16,
    data: u32,
}

const S16: Header = Header { riff: 36, tag: 1, channels: 1, align: 2, bits: 16, data: 0 };

fn wav(header: &Header, audio: &[u8]) -> Vec<u8> {
    let mut out = b"RIFF".to_vec();
    out.extend(header.riff.to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0");
    out.extend(header.tag.to_le_bytes());
    out.extend(header.channels.to_le_bytes());
    out.extend(16_000u32.to_le_bytes());
    out.extend((16_000 * u32::from(header.align)).to_le_bytes());
    out.extend(header.align.to_le_bytes());
    out.extend(header.bits.to_le_bytes());
    out.extend(b"data");
    out.extend(header.data.to_le_bytes());
    out.extend(audio);
    out
}

fn s16(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|x| ((x * 32_768.0) as i16).to_le_bytes()).collect()
}

#[test]
fn unfinished_headers_are_not_damage() {
    let audio = s16(&tone(5_000));
    let expected = played(&wav(&Header { riff: 36 + 10_000, data: 10_000, ..S16 }, &audio)).whole();
    assert_eq!(expected.len(), 5_000);
    for (riff, data) in [
        (0x8000_0024, 0x8000_0000),
        (0x7fff_ffff, 0x7fff_ffff),
        (0x7fff_ffff, 0x7fff_ffdb),
        (0x7fff_f024, 0x7fff_f000),
        (0xffff_ffff, 0xffff_ffff),
        (0xffff_ffff, 0xffff_ffdb),
        (0, 0),
        (0, 10_000),
        (36, 0),
        (36, 10_000),
    ] {
        // A killed recorder may stop within a sample.
        for extra in [0, if data == 10_000 { 0 } else { 1 }] {
            let bytes = wav(&Header { riff, data, ..S16 }, &[&audio[..], &[7; 1][..extra]].concat());
            assert!(played(&bytes).whole() == expected, "{riff:#x} {data:#x}");
        }
    }
}

#[test]
fn unfinished_headers_of_adpcm_and_aiff_are_not_damage() {
    let expected = (played(&data("adpcm.wav")).whole(), played(&data("speech.aiff")).whole());
    let place = |bytes: &[u8], id: &[u8; 4]| bytes.windows(4).position(|window| window == id).unwrap() + 4;
    for (file, audio) in [(0, 0), (u32::MAX, u32::MAX), (0x8000_0024, 0x8000_0000), (0x7f00_0036, 0x7f00_0008)] {
        let (mut adpcm, mut aiff) = (data("adpcm.wav"), data("speech.aiff"));
        let (at, sound) = (place(&adpcm, b"data"), place(&aiff, b"SSND"));
        for (at, size) in [(4, file), (at, audio)] {
            adpcm[at..at + 4].copy_from_slice(&size.to_le_bytes());
        }
        for (at, size) in [(4, file), (sound, audio)] {
            aiff[at..at + 4].copy_from_slice(&size.to_be_bytes());
        }
        assert!(played(&adpcm).whole() == expected.0 && played(&aiff).whole() == expected.1, "{file:#x} {audio:#x}");
    }
    let mut empty = data("speech.aiff");
    let sound = place(&empty, b"SSND");
    empty.truncate(sound);
    empty.extend(b"\0\0\0\0NAME\0\0\0\x04lamp");
    let error = pipe(&empty).err().expect("was read");
    assert!(error.to_string().contains("no samples"), "{error}");
    let mut cut = data("speech.aiff");
    cut.truncate(cut.len() - 2_000);
    assert!(played(&cut).damage().contains("cut off at sample 8600 (0.54 s): the header declares 1000 more"));
}

#[test]
fn an_empty_wav_is_an_error_and_a_short_one_is_reported_as_cut_off() {
    let empty = wav(&S16, b"LIST\x04\0\0\0INFO");
    let error = pipe(&empty).err().expect("was read");
    assert!(error.to_string().contains("no samples"), "{error}");
    let cut = played(&wav(&Header { riff: 36 + 10_000, data: 10_000, ..S16 }, &s16(&tone(3_000))));
    assert_eq!((cut.samples.len(), cut.gaps.len()), (3_000, 0));
    assert!(cut.damage().contains("cut off at sample 3000 (0.19 s): the header declares 2000 more"), "{}", cut.damage());
}

#[test]
fn the_alignment_of_24_bit_samples_in_4_bytes_is_detected() {
    let expected = tone(4_000);
    let samples: Vec<i32> = expected.iter().map(|x| (x * 8_388_608.0) as i32).collect();
    let low: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    let unsigned: Vec<u8> = samples.iter().flat_map(|x| (x & 0xff_ffff).to_le_bytes()).collect();
    let high: Vec<u8> = samples.iter().flat_map(|x| (x << 8).to_le_bytes()).collect();
    let packed: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()[..3].to_vec()).collect();
    for (align, audio) in [(4, &low), (4, &unsigned), (4, &high), (3, &packed)] {
        let bytes = wav(&Header { align, bits: 24, data: audio.len() as u32, ..S16 }, audio);
        assert!(ratio(&played(&bytes).whole(), &expected) > 120.0, "{align}");
    }
    // Neither silence nor a quiet beginning decides, however long it is; of one that is longer than what is read ahead, only the rest has the right level.
    for (count, from) in [(3_000, 0), (400_000, 400_000)] {
        let quiet = [vec![0.0; 9_000], tone(count).iter().map(|x| x * 0.004).collect(), tone(4_000)].concat();
        let high: Vec<u8> = quiet.iter().flat_map(|x| ((x * 8_388_608.0) as i32 * 256).to_le_bytes()).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), wav(&Header { align: 4, bits: 24, data: high.len() as u32, ..S16 }, &high)).unwrap();
        let found = play(Box::new(FileSource::open(file.path(), ChannelPick::MixDown, false).unwrap())).whole();
        assert!(ratio(&found[from..], &quiet[from..]) > 120.0, "{}", ratio(&found, &quiet));
    }
    // 16-bit hardware in ALSA's format.
    let coarse: Vec<f32> = tone(4_000).iter().map(|x| (x * 32_768.0).trunc() / 32_768.0).collect();
    let low_16: Vec<u8> = coarse.iter().flat_map(|x| ((x * 8_388_608.0) as i32).to_le_bytes()).collect();
    let bytes = wav(&Header { align: 4, bits: 24, data: low_16.len() as u32, ..S16 }, &low_16);
    assert!(ratio(&played(&bytes).whole(), &coarse) > 120.0);
    for (format, audio) in [(PcmFormat::S24In32, &low), (PcmFormat::S24In32, &unsigned), (PcmFormat::S24le, &packed)] {
        let source = open_pipe(Box::new(Dribble(audio.clone(), 0)), raw(format, true), ChannelPick::MixDown, false).unwrap();
        assert!(ratio(&play(source).whole(), &expected) > 120.0, "{format:?}");
    }
}

#[test]
fn contradictory_headers_are_refused_with_the_contradiction() {
    let audio = [0x55; 6_000];
    for (tag, channels, align, bits) in
        [(1, 1, 4, 16), (1, 2, 3, 16), (3, 1, 2, 16), (1, 1, 2, 32), (1, 1, 2, 0), (3, 1, 4, 24), (6, 1, 2, 16), (1, 0, 2, 16)]
    {
        let bytes = wav(&Header { tag, channels, align, bits, data: 6_000, ..S16 }, &audio);
        let error = pipe(&bytes).err().unwrap_or_else(|| panic!("{tag} {channels} {align} {bits} was read"));
        assert_eq!(error.kind(), AudioErrorKind::Malformed, "{error}");
        assert!(error.to_string().contains("contradictory") || error.to_string().contains("no channels"), "{error}");
    }
    // A block alignment of 0 and wrong bytes per second are ignored.
    let fine = wav(&Header { align: 0, data: 6_000, ..S16 }, &audio);
    assert_eq!(played(&fine).whole().len(), 3_000);
}

#[test]
fn rf64_and_other_codecs_in_wav() {
    let audio = s16(&tone(5_000));
    let plain = wav(&Header { data: u32::MAX, riff: u32::MAX, ..S16 }, &audio);
    let mut rf64 = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".to_vec();
    rf64.extend((10_072u64).to_le_bytes());
    rf64.extend((10_000u64).to_le_bytes());
    rf64.extend((5_000u64).to_le_bytes());
    rf64.extend([0; 4]);
    rf64.extend(&plain[12..]);
    assert_eq!(played(&rf64).whole(), played(&plain).whole());
    rf64.truncate(rf64.len() - 4_000);
    assert!(played(&rf64).damage().contains("declares 2000 more"));

    // All codes: monotonic from the lowest to the highest value, and close to the original.
    for (tag, level) in [(6, 0.984_375), (7, 0.980_346_7)] {
        let bytes = wav(&Header { tag, align: 1, bits: 8, data: 256, ..S16 }, &(0..=255).collect::<Vec<u8>>());
        let mut actual = played(&bytes).whole();
        actual.sort_by(f32::total_cmp);
        assert!((actual[255] - level).abs() < 1e-6 && (actual[0] + level).abs() < 1e-6, "{} {}", actual[0], actual[255]);
    }
    let expected = played(&data("speech.wav")).whole();
    let adpcm = played(&data("adpcm.wav")).whole();
    assert!(ratio(&adpcm[..expected.len()], &expected) > 15.0, "{}", ratio(&adpcm, &expected));
    assert_eq!(played(&data("speech.aiff")).whole(), expected);
}

/// Where the frames of a FLAC file of `speech.wav` begin: two bytes of synchronisation and fixed-size blocks, 16 bit, mono, 16 kHz.
fn flac_frames(bytes: &[u8]) -> Vec<usize> {
    let mut number = 0;
    (0..bytes.len() - 4)
        .filter(|&at| {
            let actual = bytes[at] == 0xff && bytes[at + 1] == 0xf8 && bytes[at + 3] >> 4 == 0 && bytes[at + 4] == number;
            number += u8::from(actual);
            actual
        })
        .collect()
}

#[test]
fn a_damaged_flac_frame_is_a_gap_of_its_length() {
    let whole = data("frames.flac");
    let expected = played(&whole).whole();
    let frames = flac_frames(&whole);
    assert_eq!(frames.len(), expected.len().div_ceil(1_024));
    for (frame, offset) in [(0, 0), (0, 60), (3, 0), (3, 2), (3, 100), (5, 4)] {
        let mut bytes = whole.clone();
        bytes[frames[frame] + offset] ^= 0x15;
        let actual = played(&bytes);
        assert_eq!(actual.gaps, [Gap { position: frame as u64 * 1_024, samples: 1_024 }], "frame {frame}, byte {offset}");
        let mut silenced = expected.clone();
        silenced[frame * 1_024..(frame + 1) * 1_024].fill(0.0);
        assert!(actual.samples == silenced);
        assert!(actual.damage().contains(&format!("1024 at sample {} (", frame * 1_024)), "{}", actual.damage());
    }
    // A sector of zeros over several frames, missing bytes, and a damaged last frame.
    let mut zeros = whole.clone();
    zeros[frames[2] + 50..frames[4] + 50].fill(0);
    assert_eq!(played(&zeros).gaps, [Gap { position: 2_048, samples: 3 * 1_024 }]);
    let missing = [&whole[..frames[2] + 50], &whole[frames[4] + 50..]].concat();
    assert_eq!(played(&missing).gaps, [Gap { position: 2_048, samples: 3 * 1_024 }]);
    let last = played(&whole[..frames[6] + 20]);
    assert!(last.samples == expected[..6 * 1_024] && last.damage().contains("cut off at sample 6144"), "{}", last.damage());
    // Without a length in the header, the same at the end is at least known: zeros after a power loss, and a damaged header.
    let mut streamed = whole.clone();
    streamed[21] &= 0xf0;
    streamed[22..26].fill(0);
    let count = frames.len() - 1;
    assert_eq!(played(&streamed).whole().len(), expected.len());
    for (from, to) in [(frames[count] + 50, whole.len()), (frames[count] + 4, frames[count] + 5)] {
        let mut cut = streamed.clone();
        cut[from..to].fill(0x40 * u8::from(to < whole.len()));
        let actual = played(&cut);
        assert!(actual.samples == expected[..count * 1_024] && actual.damage().contains("cut off"), "{}", actual.damage());
    }
    assert_eq!(played(&[&streamed[..], b"TAG", &[b' '; 125]].concat()).whole().len(), expected.len());
}

/// Where the pages of an Ogg file begin.
fn pages(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len() - 4).filter(|&at| &bytes[at..at + 4] == b"OggS").collect()
}

fn granule(bytes: &[u8], page: usize) -> i64 {
    i64::from_le_bytes(bytes[page + 6..page + 14].try_into().unwrap())
}

#[test]
fn a_damaged_ogg_page_is_a_gap_up_to_the_next_valid_position() {
    for (name, skip) in [("pages.ogg", 0), ("speech.opus", 312)] {
        let whole = data(name);
        let expected = played(&whole).whole();
        let pages = pages(&whole);
        assert!(pages.len() > 6, "{name}: {}", pages.len());
        for (page, kind) in [(3, "changed"), (4, "changed"), (4, "missing"), (3, "unmarked")] {
            let mut bytes = whole.clone();
            match kind {
                "changed" => bytes[pages[page] + 60] ^= 0x20,
                "unmarked" => bytes[pages[page]] = b'X',
                _ => drop(bytes.drain(pages[page]..pages[page + 1])),
            }
            let actual = played(&bytes);
            assert_eq!(actual.samples.len(), expected.len(), "{name}, page {page} {kind}: {:?} {:?}", actual.gaps, actual.end);
            assert_eq!(actual.gaps.len(), 1, "{name}");
            let gap = actual.gaps[0];
            let ended = (granule(&whole, pages[page - 1]) - skip).max(0) as u64;
            assert!(gap.position.abs_diff(ended) < 600, "{name}: {gap:?}, the page before ended at {ended}");
            let lost = (granule(&whole, pages[page]) - granule(&whole, pages[page - 1])) as u64;
            assert!((lost / 2..lost + 1_600).contains(&gap.samples), "{name}: {gap:?}, the page had {lost}");
            assert!(actual.damage().contains(&format!("{} at sample {}", gap.samples, gap.position)), "{}", actual.damage());
            // The audio after the gap keeps its position.
            let from = (gap.position + gap.samples) as usize + 4_000;
            if from + 2_000 < expected.len() {
                assert!(
                    ratio(&actual.samples[from..], &expected[from..]) > 25.0,
                    "{name}: {}",
                    ratio(&actual.samples[from..], &expected[from..])
                );
            }
            assert!(actual.samples[..gap.position as usize] == expected[..gap.position as usize]);
        }
        let cut = played(&whole[..pages[5] + 40]);
        assert!(cut.samples.len() > 3_000 && cut.samples[..] == expected[..cut.samples.len()]);
        assert!(cut.damage().contains("cut off"), "{}", cut.damage());
    }
}

/// A page with another granule position, serial number or body, and its checksum.
fn sealed(mut page: Vec<u8>) -> Vec<u8> {
    page[22..26].fill(0);
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    };
    let crc = page.iter().fold(0, step);
    page[22..26].copy_from_slice(&crc.to_le_bytes());
    page
}

/// The pages of an Ogg file.
fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts = pages(bytes);
    let ends = starts[1..].iter().copied().chain([bytes.len()]);
    starts.iter().zip(ends).map(|(&start, end)| bytes[start..end].to_vec()).collect()
}

#[test]
fn of_multiplexed_ogg_streams_the_first_is_played() {
    let (first, mut second) = (split(&data("pages.ogg")), split(&data("speech.opus")));
    for page in &mut second {
        page[14] = 7;
        *page = sealed(page.clone());
    }
    let mut both = Vec::new();
    for at in 0..first.len().max(second.len()) {
        both.extend([&first, &second].iter().filter_map(|pages| pages.get(at)).flatten());
    }
    assert!(played(&both).whole() == played(&data("pages.ogg")).whole());
}

#[test]
fn opus_of_any_mapping_family_is_played_if_it_is_mono_or_stereo() {
    for (name, channels) in [("speech.opus", 1u8), ("stereo.opus", 2)] {
        let mut pages = split(&data(name));
        let table = [&[1, channels - 1, 0, 1][..2 + usize::from(channels)]].concat();
        let head = 27 + 1;
        assert_eq!(pages[0][head + 18], 0);
        pages[0][26 + 1] += table.len() as u8;
        pages[0].extend(table);
        for (family, mapping, is_played) in [(1, 0, true), (255, 0, true), (1, 5, false)] {
            pages[0][head + 18] = family;
            pages[0][head + 21] = mapping;
            pages[0] = sealed(pages[0].clone());
            let bytes = pages.concat();
            match is_played {
                true => assert!(played(&bytes).whole() == played(&data(name)).whole(), "{name} {family}"),
                false => assert!(pipe(&bytes).err().unwrap().to_string().contains("mapping family 1")),
            }
        }
    }
}

#[test]
fn a_stream_that_is_joined_late_has_lost_nothing() {
    let pages = split(&data("speech.opus"));
    let later = |seconds: i64| {
        let moved = pages[4..].iter().map(|page| {
            let mut page = page.clone();
            let granule = i64::from_le_bytes(page[6..14].try_into().unwrap()) + 48_000 * seconds;
            page[6..14].copy_from_slice(&granule.to_le_bytes());
            sealed(page)
        });
        pages[..2].iter().cloned().chain(moved).collect::<Vec<_>>().concat()
    };
    assert!(played(&later(0)).gaps.len() == 1, "a page is missing");
    let (joined, expected) = (played(&later(100)).whole(), played(&data("speech.opus")).whole());
    assert!((2_000..expected.len()).contains(&joined.len()), "{}", joined.len());
    assert!(ratio(&joined[4_000..], &expected[expected.len() - joined.len() + 4_000..]) > 25.0);
}

/// Where the frames of a CBR MP3 begin: every header has the same first two bytes.
fn mp3_frames(bytes: &[u8]) -> Vec<usize> {
    let length = |at: usize| {
        let kilobits = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160][usize::from(bytes[at + 2] >> 4)];
        72_000 * kilobits / 16_000 + usize::from(bytes[at + 2] >> 1 & 1)
    };
    let mut at = (0..bytes.len()).find(|&at| bytes[at] == 0xff && bytes[at + 1] & 0xfe == 0xf2).unwrap();
    let mut frames = Vec::new();
    while at + 4 < bytes.len() && bytes[at] == 0xff {
        frames.push(at);
        at += length(at);
    }
    frames
}

#[test]
fn damaged_mp3_frames_are_lost_and_the_rest_keeps_its_position() {
    let whole = data("speech.mp3");
    let expected = played(&whole).whole();
    let frames = mp3_frames(&whole);
    assert!(frames.len() > 15);
    for frame in [4, 7, 9] {
        for zeros in [0..4, 0..200] {
            let mut bytes = whole.clone();
            bytes[frames[frame]..][zeros].fill(0);
            let actual = played(&bytes);
            assert_eq!(actual.samples.len(), expected.len(), "frame {frame}");
            assert_eq!(actual.gaps.len(), 1, "frame {frame}");
            let gap = actual.gaps[0];
            // Later frames may depend on its bytes.
            assert!(gap.samples.is_multiple_of(576) && (576..=4 * 576).contains(&gap.samples), "{gap:?}");
            assert!(gap.position.abs_diff((frame as u64 - 1) * 576) <= 1_200, "frame {frame}: {gap:?}");
            let from = (gap.position + gap.samples) as usize + 1_200;
            assert!(
                ratio(&actual.samples[from..], &expected[from..]) > 20.0,
                "{}",
                ratio(&actual.samples[from..], &expected[from..])
            );
            assert!(actual.damage().contains("is damaged"));
        }
    }
    let cut = played(&whole[..frames[10] + 30]);
    let missing = expected.len() - cut.samples.len();
    assert!(cut.samples.len() > 4_000 && cut.damage().contains("cut off"), "{}", cut.damage());
    assert!(cut.damage().contains(&format!("declares {missing} more")), "{} {missing}", cut.damage());
    // A recorder that was killed has declared no frame.
    let mut killed = whole.clone();
    let info = (0..200).find(|&at| [b"Info", b"Xing"].iter().any(|&name| killed[at..].starts_with(name))).unwrap();
    assert_eq!(killed[info + 7] & 1, 1);
    killed[info + 8..info + 12].fill(0);
    let (killed, padding) = (played(&killed).whole(), 2 * 576);
    assert!(killed[..expected.len()] == expected[..] && killed.len() <= expected.len() + padding);
}

#[test]
fn a_damaged_beginning_of_an_mp3_is_a_gap_and_joining_it_late_is_not() {
    let whole = data("speech.mp3");
    let frames = mp3_frames(&whole);
    let expected = played(&whole[frames[1]..]).whole();
    let mut damaged = whole[frames[1]..].to_vec();
    damaged[..frames[3] - frames[1]].fill(0);
    let actual = played(&damaged);
    assert_eq!((actual.samples.len(), actual.gaps.len()), (expected.len(), 1));
    assert!(actual.gaps[0].position == 0 && actual.gaps[0].samples >= 2 * 576, "{:?}", actual.gaps);
    assert!(actual.damage().contains("lost"));
    let joined = played(&whole[frames[3] + 50..]).whole();
    assert_eq!(joined.len(), (frames.len() - 4) * 576);
    // An Ogg stream cannot be decoded without its headers.
    let ogg = data("speech.opus");
    let error = pipe(&ogg[pages(&ogg)[2] + 9..]).err().unwrap();
    assert!(error.kind() == AudioErrorKind::Malformed && error.to_string().contains("within an Ogg stream"), "{error}");
}

#[test]
fn streams_of_other_formats_may_follow() {
    let wav = wav(&Header { data: 6_000, ..S16 }, &s16(&tone(3_000)));
    let [flac, mp3, ogg, opus] = ["speech.flac", "speech.mp3", "pages.ogg", "speech.opus"].map(data);
    let id3v1 = [&b"TAG"[..], &[b' '; 125]].concat();
    for (number, (one, other)) in
        [(&wav, &flac), (&flac, &wav), (&mp3, &ogg), (&ogg, &mp3), (&wav, &mp3), (&flac, &opus), (&opus, &wav)]
            .into_iter()
            .enumerate()
    {
        for between in [&b""[..], &id3v1] {
            let (first, second) = (played(one), played(other));
            let ratio = f64::from(first.rate) / f64::from(second.rate);
            let both = played(&[&one[..], between, &other[..]].concat());
            let expected = first.samples.len() as f64 + second.samples.len() as f64 * ratio;
            assert!((both.samples.len() as f64 - expected).abs() <= 2.0, "{number}: {} {expected}", both.samples.len());
            assert!(both.end == SourceEvent::End && both.gaps.is_empty(), "{number}: {:?}", both.end);
        }
    }
}

#[test]
fn streams_may_follow_each_other() {
    for name in ["speech.flac", "pages.ogg", "speech.ogg", "speech.mp3", "speech.opus", "flac.ogg"] {
        let one = data(name);
        let single = played(&one).whole();
        let both = played(&[&one[..], &one[..]].concat()).whole();
        assert_eq!(both.len(), 2 * single.len(), "{name}");
        assert!(both[..single.len()] == single[..] && ratio(&both[single.len()..], &single) > 60.0, "{name}");
    }
    // WAV, with chunks or a byte of padding in between.
    let one = wav(&Header { data: 6_000, ..S16 }, &s16(&tone(3_000)));
    for between in [&b""[..], b"LIST\x04\0\0\0abcd", b"\0"] {
        let both = played(&[&one[..], between, &one[..]].concat()).whole();
        assert_eq!(both, [played(&one).whole(), played(&one).whole()].concat(), "{between:?}");
    }
    assert_eq!(played(&[&one[..], b"LIST\xff\xff\0\0abcd"].concat()).whole(), played(&one).whole());
    // Another rate and channel count: resampled to the rate of the first.
    let (mono, stereo) = (data("speech.opus"), data("stereo.opus"));
    let lengths = played(&mono).whole().len() + played(&stereo).whole().len();
    assert_eq!(played(&[&mono[..], &stereo[..]].concat()).whole().len(), lengths);
    let mixed = played(&[&data("pages.ogg")[..], &mono[..]].concat()).whole();
    let (vorbis, opus) = (played(&data("pages.ogg")).whole().len(), played(&mono).whole().len());
    assert!(mixed.len().abs_diff(vorbis + opus / 3) <= 2, "{} {vorbis} {opus}", mixed.len());
    // The end of the first one is missing.
    let pages = data("pages.ogg");
    let at = self::pages(&pages);
    let both = played(&[&pages[..at[5]], &pages[..]].concat());
    assert!(both.samples.len() > vorbis + 4_000 && both.gaps.is_empty());
    // It ends within a page, or with a damaged one.
    let mut damaged = pages.clone();
    damaged[at[at.len() - 1] + 60] ^= 0x20;
    for first in [&pages[..at[5] + 40], &damaged] {
        let both = played(&[first, &pages[..]].concat());
        assert!(both.damage().contains("cut off"), "{}", both.damage());
    }
}

#[test]
fn tags_of_any_size_are_skipped() {
    let (mp3, flac) = (data("speech.mp3"), data("speech.flac"));
    let size = 6u32 << 20;
    let syncsafe = [size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127].map(|byte| byte as u8);
    // Cover art that looks like frames.
    let cover = [0xff, 0xfb, 0x90, 0x44].repeat(size as usize / 4);
    let id3 = [&b"ID3\x04\0\0"[..], &syncsafe, &cover].concat();
    let id3v1 = [&b"TAG"[..], &[b' '; 125]].concat();
    let expected = (played(&mp3).whole(), played(&flac).whole());
    assert!(played(&[&id3[..], &mp3, &id3v1].concat()).whole() == expected.0);
    assert!(played(&[&id3[..], &mp3, &id3v1, &id3, &mp3].concat()).whole().len() == 2 * expected.0.len());
    // Tags without a size in front.
    let lyrics = [&b"LYRICSBEGIN"[..], &b"la ".repeat(200), b"000611LYRICS200"].concat();
    assert!(played(&[&mp3[..], &lyrics, &id3v1].concat()).whole() == expected.0);
    assert!(played(&[&id3[..], &flac, &id3v1].concat()).whole() == expected.1);
    let error = pipe(&id3[..1_000_000]).err().unwrap().to_string();
    assert!(error.contains("cut off within its tags"), "{error}");
}

#[test]
fn opus_equals_libopus() {
    for (name, reference) in [("speech.opus", "opus.wav"), ("stereo.opus", "stereo-opus.wav")] {
        let (actual, expected) = (played(&data(name)), played(&data(reference)).whole());
        assert_eq!(actual.rate, 48_000);
        let actual = actual.whole();
        let length = actual.len().min(expected.len());
        assert!(actual.len().abs_diff(expected.len()) <= 960, "{} {}", actual.len(), expected.len());
        let ratio = ratio(&actual[..length], &expected[..length]);
        println!("{name}: {ratio:.1} dB");
        assert!(ratio > 40.0, "{name}: {ratio:.1} dB");
    }
}

#[test]
fn unsupported_formats_are_named_with_the_command_that_converts_them() {
    let folder = tempfile::tempdir().unwrap();
    let adts = [0xff, 0xf1, 0x50, 0x80, 0x02, 0x1f, 0xfc].repeat(30);
    let mp2 = [0xff, 0xfd, 0x90, 0x00].repeat(100);
    let cases: [(&str, Vec<u8>); 8] = [
        ("AAC", data("speech.m4a")),
        ("AAC", adts),
        ("layer I or II", mp2),
        ("WMA", [&[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11][..], &[0; 99]].concat()),
        ("Matroska", [&[0x1a, 0x45, 0xdf, 0xa3][..], &[0; 99]].concat()),
        ("RIFX", [&b"RIFX"[..], &[0; 99]].concat()),
        ("AMR", [&b"#!AMR\n"[..], &[0; 99]].concat()),
        ("AAC inside WAV", wav(&Header { tag: 0xff, data: 99, ..S16 }, &[0; 99])),
    ];
    for (name, bytes) in cases {
        let path = folder.path().join("it's.wav");
        std::fs::write(&path, bytes).unwrap();
        let error = decode_file(&path, ChannelPick::MixDown).unwrap_err();
        assert_eq!(error.kind(), AudioErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("ffmpeg -i '") && text.contains(r"it'\''s.wav'"), "{text}");
    }
}

#[test]
fn pipes_contain_files_or_samples() {
    let error = pipe(b"").err().unwrap().to_string();
    assert!(error.contains("standard input: is empty"), "{error}");
    // Samples that look like one MP3 frame, without further frames after it, are samples.
    let samples = s16(&tone(3_000));
    let like_mp3 = [&[0xff, 0xfb, 0x90, 0x44][..], &samples, &[9]].concat();
    assert_eq!(play(pipe(&like_mp3).unwrap()).whole().len(), 3_002);
    // With a format, frames without a tag are samples as well.
    let mp3 = data("speech.mp3");
    let frames = mp3[mp3_frames(&mp3)[0]..].to_vec();
    let length = frames.len();
    let given = open_pipe(Box::new(Dribble(frames, 0)), raw(PcmFormat::U8, true), ChannelPick::MixDown, false).unwrap();
    assert_eq!(play(given).whole().len(), length);
    // Nor are those that look like one frame of another format; several frames are.
    let adts = [&[0xff, 0xf1, 0x50, 0x80, 0x02, 0x1f, 0xfc][..], &[0; 9]].concat();
    let mp2 = [&[0xff, 0xfd, 0x90, 0x00][..], &[0; 518]].concat();
    for (name, frame) in [("AAC", adts), ("layer I or II", mp2)] {
        assert_eq!(play(pipe(&[&frame[..], &samples].concat()).unwrap()).whole().len(), frame.len() / 2 + 3_000);
        let error = pipe(&frame.repeat(5)).err().expect(name).to_string();
        assert!(error.contains("standard input") && error.contains(name), "{error}");
    }
    let one_byte = play(pipe(&[1]).unwrap());
    assert!(matches!(&one_byte.end, SourceEvent::Error(error) if error.to_string().contains("no audio")), "{:?}", one_byte.end);
    // The header of a file takes precedence over the settings for raw samples.
    let wav = wav(&Header { data: 6_000, ..S16 }, &samples);
    let source = open_pipe(Box::new(Dribble(wav, 0)), raw(PcmFormat::S32le, true), ChannelPick::MixDown, false).unwrap();
    assert_eq!(play(source).whole().len(), 3_000);
}

#[cfg(unix)]
#[test]
fn a_path_may_be_invalid_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.wav"));
    std::fs::write(&path, data("speech.wav")).unwrap();
    assert_eq!(decode_file(&path, ChannelPick::MixDown).unwrap().1, 16_000);
}

/// No corruption causes a panic, an endless loop, or more samples than the bytes can contain.
#[test]
fn no_corruption_causes_a_panic_or_an_endless_loop() {
    let names = [
        "speech.wav",
        "adpcm.wav",
        "speech.aiff",
        "frames.flac",
        "flac.ogg",
        "pages.ogg",
        "speech.opus",
        "stereo.opus",
        "speech.mp3",
    ];
    for name in names {
        let good = data(name);
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below.max(1) as u64) as usize
        };
        for round in 0..80 {
            let mut bytes = good.clone();
            for _ in 0..1 + round % 6 {
                let at = random(if round % 3 == 0 { bytes.len().min(300) } else { bytes.len() });
                match random(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => {
                        let to = (at + random(2_000)).min(bytes.len());
                        bytes.drain(at..to);
                    }
                    2 => {
                        let to = (at + random(2_000)).min(bytes.len());
                        let part = bytes[at..to].to_vec();
                        bytes.splice(at..at, part);
                    }
                    _ => bytes[at] ^= 1 << random(8),
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            if let Ok(source) = pipe(&bytes) {
                let played = play(source);
                let read = played.samples.len() as u64 - played.gaps.iter().map(|gap| gap.samples).sum::<u64>();
                assert!(read < 2_000_000, "{name}, round {round}: {read}");
            }
        }
    }
}
