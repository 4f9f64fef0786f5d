//! Takes and thresholds: speech in a recording, takes from a live stream, and thresholds from a background's peaks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bellis::internal::keyword::{Condition, FrameBlock, Template, Warp, babble, noise_gain};
use bellis::internal::keyword::{find_speech, score, threshold, trim};
use bellis::keyword::{Recorder, RecorderEvent, Tail, TakeProblem};
use proptest::prelude::*;

const RATE: u32 = 16_000;

/// A buzz whose level varies as with syllables.
fn word(seconds: f64, level: f32) -> Vec<f32> {
    let count = (seconds * f64::from(RATE)) as usize;
    (0..count)
        .map(|n| {
            let t = n as f32 / RATE as f32;
            let syllables = 0.55 - 0.45 * (t * std::f32::consts::TAU * 5.0).cos();
            level * syllables * (t * std::f32::consts::TAU * 140.0).sin()
        })
        .collect()
}

fn silence(seconds: f64) -> Vec<f32> {
    vec![0.0; (seconds * f64::from(RATE)) as usize]
}

fn noise(seconds: f64, level: f32) -> Vec<f32> {
    let mut state = 1u32;
    let count = (seconds * f64::from(RATE)) as usize;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            level * (state as f32 / u32::MAX as f32 * 2.0 - 1.0)
        })
        .collect()
}

fn mixed(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[test]
fn a_word_is_found_in_silence_and_in_noise() {
    let clean = [silence(0.7), word(0.6, 0.3), silence(0.5)].concat();
    let noisy = mixed(&clean, &noise(1.8, 0.01));
    for audio in [&clean, &noisy] {
        let span = find_speech(audio, RATE).unwrap();
        assert!((0.62..0.78).contains(&(span.start as f64 / f64::from(RATE))), "{span:?}");
        assert!((1.22..1.38).contains(&(span.end as f64 / f64::from(RATE))), "{span:?}");
    }
}

#[test]
fn silence_noise_and_short_words_are_rejected_with_the_reason() {
    assert!(matches!(find_speech(&[], RATE), Err(TakeProblem::TooQuiet { .. })));
    assert!(matches!(find_speech(&silence(2.0), RATE), Err(TakeProblem::TooQuiet { .. })));
    assert!(matches!(find_speech(&[f32::NAN; 9000], RATE), Err(TakeProblem::TooQuiet { .. })));
    assert!(matches!(find_speech(&noise(2.0, 0.1), RATE), Err(TakeProblem::NothingStandsOut { .. })));
    let short = [silence(0.5), word(0.15, 0.3), silence(0.5)].concat();
    assert!(matches!(find_speech(&short, RATE), Err(TakeProblem::TooShort { .. })), "{:?}", find_speech(&short, RATE));
    let long = [silence(0.5), word(3.5, 0.3), silence(0.5)].concat();
    assert!(matches!(find_speech(&long, RATE), Err(TakeProblem::TooLong { .. })));
}

#[test]
fn two_words_are_rejected_with_both_places() {
    let two = [silence(0.4), word(0.5, 0.3), silence(0.6), word(0.4, 0.2), silence(0.4)].concat();
    match find_speech(&two, RATE) {
        Err(TakeProblem::SeveralWords { words: 2, first, second }) => {
            assert!((first - 0.4).abs() < 0.1 && (second - 1.5).abs() < 0.1, "{first} {second}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_synthesised_take_keeps_its_pauses_and_loses_the_silence_around_it() {
    let audio = [silence(0.3), word(0.5, 0.3), silence(0.5), word(0.5, 0.3), silence(0.4)].concat();
    let span = trim(&audio, RATE).unwrap();
    let (start, end) = (span.start as f64 / f64::from(RATE), span.end as f64 / f64::from(RATE));
    assert!((0.29..0.33).contains(&start) && (1.77..1.81).contains(&end), "{span:?}");
    assert!(matches!(trim(&silence(1.0), RATE), Err(TakeProblem::NoSpeech)));
    assert!(matches!(trim(&word(0.1, 0.3), RATE), Err(TakeProblem::TooShort { .. })));
    assert!(matches!(trim(&word(4.0, 0.3), RATE), Err(TakeProblem::TooLong { .. })));
}

#[test]
fn clipping_is_rejected() {
    let loud: Vec<f32> = word(0.6, 4.0).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    let audio = [silence(0.4), loud, silence(0.4)].concat();
    assert!(matches!(find_speech(&audio, RATE), Err(TakeProblem::Clipped { .. })));
}

#[test]
fn a_click_beside_the_word_is_ignored() {
    let audio = [silence(0.2), noise(0.03, 0.3), silence(0.6), word(0.5, 0.3), silence(0.4)].concat();
    let span = find_speech(&audio, RATE).unwrap();
    assert!(span.start as f64 / f64::from(RATE) > 0.7, "{span:?}");
}

fn tone(seconds: f64, level: f32) -> Vec<f32> {
    (0..(seconds * f64::from(RATE)) as usize).map(|n| level * (n as f32 * 0.3).sin()).collect()
}

fn takes(audio: &[f32], callback: usize) -> Vec<Vec<f32>> {
    let mut recorder = Recorder::new(RATE);
    audio
        .chunks(callback)
        .filter_map(|samples| if let RecorderEvent::Take(take) = recorder.push(samples) { Some(take) } else { None })
        .collect()
}

#[test]
fn each_word_becomes_one_take_with_any_callback_size() {
    let word = || tone(0.6, 0.3);
    let audio = [tone(1.0, 0.002), word(), tone(1.5, 0.002), word(), tone(1.5, 0.002)].concat();
    let found = takes(&audio, 320);
    assert_eq!(found.len(), 2);
    for take in &found {
        let seconds = take.len() as f64 / f64::from(RATE);
        assert!((1.8..2.1).contains(&seconds), "{seconds}");
    }
    assert_eq!(found, takes(&audio, 77));
}

#[test]
fn a_click_gives_no_take_and_a_long_noise_one() {
    let click = [tone(1.0, 0.002), tone(0.02, 0.5), tone(2.0, 0.002)].concat();
    assert!(takes(&click, 320).is_empty());
    let roar = [tone(1.0, 0.002), tone(10.0, 0.5)].concat();
    assert_eq!(takes(&roar, 320).len(), 1);
}

/// An exponential tail of log odds: the k-th highest of n peaks per hour is at u − scale · ln(k / n).
fn tail_of(scale: f64, hours: f64) -> Tail {
    let score = |odds: f64| (1.0 + (-odds).exp()).recip() as f32;
    let peaks = (1..=24).map(|k| score(1.0 - scale * (f64::from(k) / 24.0).ln())).collect();
    Tail { condition: Condition::Plain, hours, peaks, said: 0 }
}

#[test]
fn thresholds_of_observed_rates_match_the_peaks_and_those_of_lower_rates_extrapolate_them() {
    let tail = tail_of(0.1, 2.0);
    let at = |rate| {
        let score = f64::from(tail.threshold(rate).unwrap());
        (score / (1.0 - score)).ln()
    };
    assert!((at(12.0) - 1.0).abs() < 1e-3, "{}", at(12.0));
    assert!((at(0.5) - (1.0 - 0.1 * (0.5f64 / 12.0).ln())).abs() < 0.05, "{}", at(0.5));
    assert!(at(0.1) > at(0.5) && at(0.5) > at(5.0));
}

#[test]
fn scores_are_higher_in_noise_by_what_thresholds_are_lower_in_babble() {
    let plain = tail_of(0.1, 2.0);
    let of = |condition, factor: f32| Tail {
        condition,
        peaks: plain.peaks.iter().map(|peak| factor * peak).collect(),
        ..plain.clone()
    };
    let gain = |tails: &[Tail]| noise_gain(tails, 0.5);
    let thresholds =
        threshold(std::slice::from_ref(&plain), 0.5).unwrap() / threshold(&[of(Condition::Babble, 0.6)], 0.5).unwrap();
    let found = gain(&[plain.clone(), of(Condition::Babble, 0.6)]);
    assert!((found - thresholds / 1.1).abs() < 1e-5 && found > 1.3, "{found} {thresholds}");
    // A little less is within the uncertainty of the background's minutes.
    assert_eq!(gain(&[plain.clone(), of(Condition::Babble, 0.95)]), 1.0);
    assert_eq!(gain(&[plain.clone(), of(Condition::Babble, 1.2)]), 1.0, "babble is what decides the threshold");
    assert_eq!(gain(&[plain.clone(), of(Condition::Noise, 0.5)]), 1.0, "a pack's reading has no babble");
    assert_eq!(gain(&[plain.clone(), of(Condition::Babble, 0.01)]), 2.5);
    assert_eq!(gain(&[]), 1.0);
}

#[test]
fn own_speech_is_allowed_more_and_does_not_change_what_noise_adds() {
    let plain = tail_of(0.1, 2.0);
    // An exponential tail of scores: 24 peaks in two hours, and twenty times 0.05 per hour.
    let peaks: Vec<f32> = (1..=24).map(|k| 0.7 - 0.02 * (k as f32 / 24.0).ln()).collect();
    let own = Tail { condition: Condition::Own, peaks, ..plain.clone() };
    let (low, high) = (own.threshold(0.6).unwrap(), own.threshold(0.05).unwrap());
    assert!((low - 0.7).abs() < 1e-3 && (high - (0.7 + 0.02 * 12f32.ln())).abs() < 0.01, "{low} {high}");
    let babble =
        Tail { condition: Condition::Babble, peaks: plain.peaks.iter().map(|peak| 0.6 * peak).collect(), ..plain.clone() };
    let louder = Tail { peaks: own.peaks.iter().map(|peak| (1.4 * peak).min(0.99)).collect(), ..own };
    let others = [plain, babble];
    let all = [&others[..], std::slice::from_ref(&louder)].concat();
    assert!(threshold(&all, 0.5) == louder.threshold(0.5) && threshold(&all, 0.5) > threshold(&others, 0.5));
    assert_eq!(noise_gain(&all, 0.5), noise_gain(&others, 0.5));
}

#[test]
fn no_more_background_peaks_are_accepted_than_the_rate_allows() {
    // One peak far above an even tail, for example because the background contains the keyword.
    let peaks: Vec<f32> = [vec![0.9], (0..23).map(|k| 0.5 + 0.001 * k as f32).collect()].concat();
    let tail = Tail { condition: Condition::Plain, hours: 1.0, peaks, said: 0 };
    assert!(tail.threshold(0.5).unwrap() > 0.9);
    assert!((0.52..0.9).contains(&tail.threshold(1.0).unwrap()));
}

#[test]
fn too_little_background_gives_no_threshold() {
    assert_eq!(Tail { condition: Condition::Plain, hours: 1.0, peaks: vec![0.3; 3], said: 0 }.threshold(0.5), None);
    assert_eq!(Tail { condition: Condition::Plain, hours: 0.0, peaks: vec![0.3; 9], said: 0 }.threshold(0.5), None);
}

fn distance(p: &[f32], q: &[f32]) -> f32 {
    let mut block = FrameBlock::default();
    block.push(p);
    Warp::new(&Template::new(q, q.len())).step(&block)[0].distance
}

proptest! {
    #[test]
    fn the_distance_is_one_minus_the_cosine(p in prop::collection::vec(-5.0f32..5.0, 20), q in prop::collection::vec(-5.0f32..5.0, 20), gain in 0.001f32..1000.0) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        prop_assume!(dot(&p, &p) > 0.01 && dot(&q, &q) > 0.01);
        let wanted = 1.0 - dot(&p, &q) / (dot(&p, &p) * dot(&q, &q)).sqrt();
        prop_assert!((f64::from(distance(&p, &q)) - wanted).abs() < 1e-5);
        // The length of the vectors does not matter.
        let louder: Vec<f32> = p.iter().map(|x| x * gain).collect();
        prop_assert!((distance(&louder, &q) - distance(&p, &q)).abs() < 1e-5);
    }
}

#[test]
fn vectors_that_are_zero_or_not_finite_have_distance_one_to_all() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0] {
        assert_eq!(distance(&[bad, bad], &[1.0, 0.0]), 1.0);
        assert_eq!(distance(&[1.0, 0.0], &[bad, bad]), 1.0);
    }
    assert_eq!(distance(&[f32::NAN, 1.0], &[0.0, 1.0]), 1.0);
    assert_eq!((score(0.0), score(1.0), score(2.0), score(f32::INFINITY), score(f32::NAN)), (1.0, 0.0, 0.0, 0.0, 0.0));
}

#[test]
fn a_threshold_meets_the_rate_in_quiet_and_in_babble() {
    let tail = |condition, nearest: f32| Tail {
        condition,
        hours: 1.0,
        peaks: (1..=24).map(|k| score(nearest + 0.01 * k as f32)).collect(),
        said: 0,
    };
    let (quiet, loud) = (tail(Condition::Plain, 0.4), tail(Condition::Babble, 0.2));
    assert_eq!(threshold(&[quiet.clone(), loud.clone()], 0.5), loud.threshold(0.5));
    assert_eq!(threshold(&[loud.clone(), quiet.clone()], 0.5), loud.threshold(0.5));
    assert!(loud.threshold(0.5) > quiet.threshold(0.5));
    let nothing = Tail { condition: Condition::Babble, hours: 0.0, peaks: Vec::new(), said: 0 };
    assert_eq!((threshold(&[quiet, nothing], 0.5), threshold(&[], 0.5)), (None, None));
}

#[test]
fn babble_has_the_level_of_the_recording_and_differs_from_it() {
    let audio = word(2.0, 0.3);
    let voices: Vec<f32> = babble(&audio).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    assert!((dot(&voices, &voices) / dot(&audio, &audio) - 1.0).abs() < 1e-3);
    assert!(dot(&audio, &voices).abs() < 0.9 * dot(&audio, &audio));
    assert_eq!(babble(&[]).count(), 0);
    assert!(babble(&[0.0; 9]).eq([0.0; 9]));
}
