use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(40);

/// What a look at a condition sees.
pub type Look<T> = Result<T, String>;

/// Looks again and again until the condition holds.
///
/// `look` answers what was waited for, or says what it saw instead.
///
/// # Errors
/// After `limit`, names `what` and the last thing that was seen.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Look<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if Instant::now() >= deadline {
            return Err(anyhow!(
                "{what}: not within {:.0} s; last seen: {seen}",
                limit.as_secs_f64()
            ));
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_what_was_seen_last() {
        let mut looks = 0;
        let value = until("three", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(looks.to_string())
            }
        })
        .await;
        assert_eq!(value.expect("comes true"), 3);
        let error = until::<()>("never", Duration::ZERO, async || Err("nothing".to_owned()))
            .await
            .expect_err("times out");
        assert_eq!(
            error.to_string(),
            "never: not within 0 s; last seen: nothing"
        );
    }
}
