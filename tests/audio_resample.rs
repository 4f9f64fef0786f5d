//! The resampler: output independent of block boundaries, exact lengths, no time shift, low noise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bellis::audio::Resampler;
use proptest::prelude::*;

const RATES: [u32; 10] = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 44_101, 48_000, 96_000, 192_000];

fn resample(from: u32, to: u32, audio: &[f32], cuts: &[usize]) -> Vec<f32> {
    let mut resampler = Resampler::new(from, to).unwrap();
    let (mut out, mut left) = (Vec::new(), audio);
    for &cut in cuts.iter().cycle() {
        let (now, later) = left.split_at(cut.min(left.len()));
        resampler.push(now, &mut out);
        left = later;
        if left.is_empty() {
            break;
        }
    }
    resampler.finish(&mut out);
    out
}

fn sine(rate: u32, hertz: f64, samples: usize) -> Vec<f32> {
    (0..samples).map(|n| (std::f64::consts::TAU * hertz * n as f64 / f64::from(rate)).sin() as f32).collect()
}

proptest! {
    // PROPTEST_CASES reduces this number under emulation.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(60), ..ProptestConfig::default() })]

    #[test]
    fn output_does_not_depend_on_block_boundaries(
        from in prop::sample::select(RATES.to_vec()), samples in 1usize..60_000, cuts in prop::collection::vec(1usize..5_000, 1..6),
    ) {
        let audio = sine(from, 440.0, samples);
        let whole = resample(from, 16_000, &audio, &[samples]);
        prop_assert_eq!(&resample(from, 16_000, &audio, &cuts), &whole);
        let expected = (samples as f64 * 16_000.0 / f64::from(from)).round() as usize;
        prop_assert!(whole.len().abs_diff(expected) <= usize::from(samples as f64 * 16_000.0 % f64::from(from) != 0.0), "{} {}", whole.len(), expected);
    }
}

#[test]
fn the_input_that_is_asked_for_is_exactly_enough_and_what_is_inside_is_counted() {
    for from in [8_000u32, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000] {
        let mut resampler = Resampler::new(from, 16_000).unwrap();
        let (mut taken, mut out) = (0, Vec::new());
        for wanted in [1u64, 160, 5_120, 319, 5_121, 2] {
            let needed = resampler.input_for(wanted);
            let before = out.len() as u64;
            resampler.push(&vec![0.0; needed.saturating_sub(1) as usize], &mut out);
            let pending = resampler.pending().as_secs_f64();
            assert!(pending < 0.0085, "{from} Hz: {pending} s, more than half the filter and a block");
            assert!((out.len() as u64) - before < wanted, "{from} Hz: one sample less is enough for {wanted}");
            resampler.push(&[0.0], &mut out);
            assert!((out.len() as u64) - before >= wanted, "{from} Hz: {needed} are not enough for {wanted}");
            taken += needed.max(1);
            let inside = f64::from(taken as u32) / f64::from(from) - out.len() as f64 / 16_000.0;
            assert!((resampler.pending().as_secs_f64() - inside.max(0.0)).abs() < 1e-9, "{from} Hz");
        }
    }
    let equal = Resampler::new(16_000, 16_000).unwrap();
    assert_eq!((equal.input_for(320), equal.pending()), (320, std::time::Duration::ZERO));
}

#[test]
fn tones_are_neither_shifted_nor_distorted() {
    for from in RATES {
        for hertz in [100.0, 1_000.0, 3_000.0] {
            let seconds = 2;
            let out = resample(from, 16_000, &sine(from, hertz, (from * seconds) as usize), &[997]);
            let expected = sine(16_000, hertz, out.len());
            // The filter truncates both ends; everything between must be the tone without a shift.
            let inside = 1_600..out.len() - 1_600;
            let noise: f64 = inside.clone().map(|n| f64::from(out[n] - expected[n]).powi(2)).sum();
            let signal: f64 = inside.map(|n| f64::from(expected[n]).powi(2)).sum();
            let ratio = 10.0 * (signal / noise.max(1e-30)).log10();
            println!("{from} Hz, {hertz} Hz: {ratio:.0} dB");
            assert!(ratio > 60.0, "{from} Hz, {hertz} Hz: {ratio:.1} dB");
        }
    }
}

#[test]
fn frequencies_above_the_new_band_are_removed() {
    for from in [44_100, 48_000, 96_000] {
        let out = resample(from, 16_000, &sine(from, 11_000.0, from as usize), &[4_096]);
        let level = (out[1_600..14_000].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 12_400.0).sqrt();
        assert!(level < 1e-3, "{from} Hz: {level}");
    }
}

#[test]
fn invalid_rates_are_refused_with_the_reason() {
    let error = Resampler::new(0, 16_000).err().unwrap().to_string();
    assert!(error.contains("between 1,000 and 384,000 Hz"), "{error}");
}
