//! Pictures in another size, by weighted means of the pixels around each new one.

/// A part of a picture, in pixels, which may begin and end between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    left: f32,
    top: f32,
    width: f32,
    height: f32,
}

impl Area {
    pub(super) fn whole(width: usize, height: usize) -> Area {
        Area {
            left: 0.0,
            top: 0.0,
            width: width as f32,
            height: height as f32,
        }
    }

    /// The middle of this area.
    pub(super) fn middle(self, width: f32, height: f32) -> Area {
        Area {
            left: self.left + (self.width - width) / 2.0,
            top: self.top + (self.height - height) / 2.0,
            width,
            height,
        }
    }
}

/// The pixels of one line that make a new one, and how much each counts.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resamples an `area` of a picture with rows of `(width, channels)` to a size of `(width, height)`. With `antialias`
/// every pixel counts in some new one; without it only the four next to a new one's middle do.
pub(super) fn resample(
    pixels: &[u8],
    (from_width, channels): (usize, usize),
    area: Area,
    (width, height): (usize, usize),
    antialias: bool,
) -> Vec<f32> {
    let stride = from_width * channels;
    let rows = taps(
        area.top,
        area.height,
        pixels.len() / stride,
        height,
        antialias,
    );
    let columns = taps(area.left, area.width, from_width, width, antialias);
    let mut out = Vec::with_capacity(width * height * channels);
    let mut line = vec![0_f32; stride];
    for row in &rows {
        line.fill(0.0);
        // Whole rows first: neighbours in memory are added up together.
        for (from, weight) in pixels[row.first * stride..]
            .chunks_exact(stride)
            .zip(&row.weights)
        {
            for (sum, pixel) in line.iter_mut().zip(from) {
                *sum += weight * f32::from(*pixel);
            }
        }
        for column in &columns {
            let from = line[column.first * channels..].chunks_exact(channels);
            let mut sums = [0_f32; 3];
            for (pixel, weight) in from.zip(&column.weights) {
                for (sum, level) in sums.iter_mut().zip(pixel) {
                    *sum += weight * level;
                }
            }
            out.extend_from_slice(&sums[..channels]);
        }
    }
    out
}

/// For each of `to` pixels, its taps along a line of `from` pixels of which `span` are used from `start` on.
fn taps(start: f32, span: f32, from: usize, to: usize, antialias: bool) -> Vec<Taps> {
    let scale = span / to as f32;
    let reach = if antialias { scale.max(1.0) } else { 1.0 };
    let last = from - 1;
    (0..to)
        .map(|at| {
            let middle = start + (at as f32 + 0.5) * scale - 0.5;
            let first = ((middle - reach).ceil().max(0.0) as usize).min(last);
            let end = ((middle + reach).floor().max(0.0) as usize).clamp(first, last);
            let weight = |pixel: usize| (1.0 - (pixel as f32 - middle).abs() / reach).max(0.0);
            let mut weights: Vec<f32> = (first..=end).map(weight).collect();
            let sum: f32 = weights.iter().sum();
            if sum > 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= sum);
            } else {
                // Outside the line: its edge goes on.
                weights.fill(0.0);
                let edge = if middle < 0.0 { 0 } else { weights.len() - 1 };
                weights[edge] = 1.0;
            }
            Taps { first, weights }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(pixels: &[u8], to: usize, antialias: bool) -> Vec<f32> {
        let area = Area::whole(pixels.len(), 1);
        resample(pixels, (pixels.len(), 1), area, (to, 1), antialias)
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        assert_eq!(line(&[0, 50, 255], 3, true), [0.0, 50.0, 255.0]);
        assert_eq!(line(&[0, 50, 255], 3, false), [0.0, 50.0, 255.0]);
    }

    #[test]
    fn between_pixels_lies_their_weighted_mean_and_the_edge_goes_on() {
        assert_eq!(line(&[0, 100], 4, true), [0.0, 25.0, 75.0, 100.0]);
    }

    #[test]
    fn making_smaller_counts_every_pixel_only_with_antialiasing() {
        let spike = [0, 0, 0, 0, 240, 0, 0, 0];
        assert_eq!(line(&spike, 2, false), [0.0, 0.0]);
        assert!(line(&spike, 2, true).iter().sum::<f32>() > 50.0);
    }

    #[test]
    fn an_area_is_cut_out_before_it_is_resampled() {
        let area = Area::whole(4, 1).middle(2.0, 1.0);
        assert_eq!(
            resample(&[9, 10, 20, 9], (4, 1), area, (2, 1), true),
            [10.0, 20.0]
        );
    }

    proptest! {
        #[test]
        fn an_even_picture_stays_even(width in 1..40_usize, height in 1..40_usize, to_width in 1..40_usize, to_height in 1..40_usize, antialias: bool, value: u8) {
            let pixels = vec![value; width * height * 3];
            let out = resample(&pixels, (width, 3), Area::whole(width, height), (to_width, to_height), antialias);
            prop_assert_eq!(out.len(), to_width * to_height * 3);
            prop_assert!(out.iter().all(|pixel| (pixel - f32::from(value)).abs() < 0.01));
        }
    }
}
