//! One window of one machine.

use serde::{Deserialize, Serialize};

/// A window that still takes values; kept between batches.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Open {
    /// Windows of this machine that were closed before.
    #[serde(default)]
    before: u64,
    from_ms: Option<u64>,
    to_ms: u64,
    samples: Vec<f64>,
}

/// What a full window says.
#[derive(Debug, PartialEq, Serialize)]
pub struct Sum {
    /// Which window of this machine it is, from 1 on.
    pub number: u64,
    /// Times of its first and its last record.
    pub from_ms: u64,
    pub to_ms: u64,
    pub count: usize,
    pub mean: f64,
    pub min: f64,
    pub max: f64,
}

impl Open {
    pub fn add(&mut self, time_ms: u64, value: f64) {
        self.from_ms.get_or_insert(time_ms);
        self.to_ms = time_ms;
        self.samples.push(value);
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The sum and the values, of at least one record.
    /// Then the next one is open.
    pub fn close(&mut self) -> (Sum, Vec<f64>) {
        let next = Self {
            before: self.before + 1,
            ..Self::default()
        };
        let number = next.before;
        let Self {
            from_ms,
            to_ms,
            samples,
            ..
        } = std::mem::replace(self, next);
        let sum = Sum {
            number,
            from_ms: from_ms.unwrap_or(to_ms),
            to_ms,
            count: samples.len(),
            mean: samples.iter().sum::<f64>() / samples.len() as f64,
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        };
        (sum, samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_what_was_added_also_after_it_was_kept() {
        let mut window = Open::default();
        window.add(10, 1.0);
        window.add(20, -3.0);
        let kept = serde_json::to_string(&window).expect("serializes");
        let mut window: Open = serde_json::from_str(&kept).expect("parses");
        window.add(40, 5.0);
        assert_eq!(window.len(), 3);
        let (sum, samples) = window.close();
        let expected = Sum {
            number: 1,
            from_ms: 10,
            to_ms: 40,
            count: 3,
            mean: 1.0,
            min: -3.0,
            max: 5.0,
        };
        assert_eq!((sum, samples), (expected, vec![1.0, -3.0, 5.0]));
        window.add(50, 2.0);
        assert_eq!(window.len(), 1);
        assert_eq!(window.close().0.number, 2);
    }
}
