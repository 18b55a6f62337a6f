//! What a window of a vibration signal looks like, as numbers.
//!
//! `models/vibration/train.py` computes the same features in the same order;
//! `models/vibration/cases.json` holds what it found for some measured windows,
//! and a test here compares.

use std::f64::consts::TAU;

/// Number of features.
pub const COUNT: usize = 14;
/// Where the root mean square is.
pub const RMS: usize = 0;
/// The spectrum's power is summed over this many bands of equal width.
const BANDS: usize = 6;
/// Keeps ratios and logarithms of a silent signal finite.
const SILENCE: f64 = 1e-12;

/// The features of a window: root mean square, peak, crest factor, skewness,
/// kurtosis, zero crossings per second, strongest frequency and spectral
/// centroid as parts of the highest one (half the rate), then the logarithm of
/// the power in each band. The mean (gravity, an offset of the sensor) is taken
/// off first.
pub fn extract(samples: &[f64], rate_hz: f64) -> [f32; COUNT] {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let centred: Vec<f64> = samples.iter().map(|x| x - mean).collect();
    let moment = |power: i32| centred.iter().map(|x| x.powi(power)).sum::<f64>() / n;
    let variance = moment(2);
    let rms = variance.sqrt();
    let peak = centred.iter().fold(0.0_f64, |peak, x| peak.max(x.abs()));
    let crossings = centred
        .windows(2)
        .filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0))
        .count() as f64;
    let power = power_spectrum(&centred);
    let total = power.iter().sum::<f64>() + SILENCE;
    let bins = power.len() as f64;
    let strongest = power
        .iter()
        .enumerate()
        .fold(
            (0, f64::MIN),
            |best, (k, &p)| if p > best.1 { (k, p) } else { best },
        )
        .0 as f64;
    let centroid = power
        .iter()
        .enumerate()
        .map(|(k, p)| (k + 1) as f64 * p)
        .sum::<f64>()
        / total;
    let mut features = [
        rms,
        peak,
        peak / (rms + SILENCE),
        moment(3) / (variance.powf(1.5) + SILENCE),
        moment(4) / (variance * variance + SILENCE),
        crossings * rate_hz / n,
        (strongest + 1.0) / bins,
        centroid / bins,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
    ];
    for (band, feature) in features[COUNT - BANDS..].iter_mut().enumerate() {
        let from = band * power.len() / BANDS;
        let to = (band + 1) * power.len() / BANDS;
        *feature = (power[from..to].iter().sum::<f64>() + SILENCE).log10();
    }
    features.map(|feature| feature as f32)
}

/// Power at each frequency from the first above zero to half the rate, under a
/// Hann window. Windows are short, so the plain sum is quick enough.
fn power_spectrum(centred: &[f64]) -> Vec<f64> {
    let n = centred.len();
    let turn = |k: usize| (TAU * (k % n) as f64 / n as f64).sin_cos();
    let table: Vec<(f64, f64)> = (0..n).map(turn).collect();
    let tapered: Vec<f64> = centred
        .iter()
        .zip(&table)
        .map(|(x, (_, cos))| x * (0.5 - 0.5 * cos))
        .collect();
    (1..=n / 2)
        .map(|k| {
            let (mut re, mut im) = (0.0, 0.0);
            for (t, x) in tapered.iter().enumerate() {
                let (sin, cos) = table[k * t % n];
                re += x * cos;
                im -= x * sin;
            }
            (re * re + im * im) / (n * n) as f64
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        rate_hz: f64,
        samples: Vec<f64>,
        features: Vec<f32>,
    }

    #[test]
    fn finds_what_the_training_script_found_for_measured_windows() {
        let cases = include_str!("../../../models/vibration/cases.json");
        let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
        assert!(cases.len() >= 8, "the file holds measured windows");
        for (index, case) in cases.iter().enumerate() {
            let found = extract(&case.samples, case.rate_hz);
            assert_eq!(case.features.len(), COUNT);
            for (k, (a, b)) in found.iter().zip(&case.features).enumerate() {
                assert!(
                    (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                    "case {index}, feature {k}: {a} is not {b}"
                );
            }
        }
    }

    #[test]
    fn finds_the_frequency_of_a_sine() {
        let sine: Vec<f64> = (0..100)
            .map(|t| (TAU * 2.0 * f64::from(t) / 10.0).sin())
            .collect();
        let found = extract(&sine, 10.0);
        assert!(
            (found[6] - 2.0 / 5.0).abs() < 1e-6,
            "2 Hz of at most 5 Hz, not {}",
            found[6]
        );
        assert!((found[RMS] - 0.5_f32.sqrt()).abs() < 1e-3);
    }

    #[test]
    fn stays_finite_for_a_sensor_that_is_stuck() {
        assert!(extract(&[1.25; 50], 10.0).iter().all(|x| x.is_finite()));
    }
}
