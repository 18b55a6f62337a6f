use std::time::Duration;

/// Pauses that grow to a limit, with full jitter: each is drawn from zero to
/// the current limit, so that a fleet does not come back all at once.
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    limit: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            limit: min,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.limit = self.min;
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        self.draw(getrandom::u32().unwrap_or(u32::MAX))
    }

    fn draw(&mut self, random: u32) -> Duration {
        let pause = self.limit.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.limit = (self.limit * 2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(300));
        let longest: Vec<_> = (0..5).map(|_| backoff.draw(u32::MAX)).collect();
        assert_eq!(longest, [ms(50), ms(100), ms(200), ms(300), ms(300)]);
        assert_eq!(backoff.draw(0), ms(0));
        backoff.reset();
        assert_eq!(backoff.draw(u32::MAX), ms(50));
    }
}
