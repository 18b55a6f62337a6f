//! Load by `wrk` on the same machine.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// What a client saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Requests per second.
    pub(crate) rate: f64,
    /// The median in milliseconds.
    pub(crate) p50_ms: f64,
    /// The 99th percentile in milliseconds.
    pub(crate) p99_ms: f64,
    /// Answers that were no success, and connections that broke or timed out.
    pub(crate) errors: u64,
}

/// Longest wait for an answer, in seconds.
const PATIENCE: u32 = 30;

/// Loads `url` for some seconds; an answer that is no success fails it.
pub(crate) async fn load(
    url: &str,
    connections: u32,
    seconds: u32,
    script: Option<&Path>,
) -> Result<Seen> {
    let seen = try_load(url, connections, seconds, script).await?;
    if seen.errors > 0 {
        bail!("wrk saw {} failures at {url}", seen.errors);
    }
    Ok(seen)
}

/// Loads `url` for some seconds and counts what fails.
pub(crate) async fn try_load(
    url: &str,
    connections: u32,
    seconds: u32,
    script: Option<&Path>,
) -> Result<Seen> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "--latency", "-c", &connections.to_string()])
        .args(["-d", &format!("{seconds}s")])
        .args(["--timeout", &format!("{PATIENCE}s")]);
    if let Some(script) = script {
        wrk.arg("-s").arg(script);
    }
    let output = wrk
        .arg(url)
        .output()
        .await
        .context("wrk cannot be started: install it with `apt-get install wrk`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("wrk failed at {url}: {text}{stderr}");
    }
    parse(&text).with_context(|| format!("wrk's answer is not understood: {text}"))
}

fn parse(text: &str) -> Option<Seen> {
    let after = |key: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|l| l.strip_prefix(key)).map(str::trim)
    };
    Some(Seen {
        rate: after("Requests/sec:")?.parse().ok()?,
        p50_ms: millis(after("50%")?)?,
        p99_ms: millis(after("99%")?)?,
        errors: numbers(after("Non-2xx or 3xx responses:")) + numbers(after("Socket errors:")),
    })
}

/// The sum of the numbers in a line.
fn numbers(line: Option<&str>) -> u64 {
    let words = line.unwrap_or_default().split([' ', ',']);
    words.filter_map(|word| word.parse::<u64>().ok()).sum()
}

fn millis(text: &str) -> Option<f64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[number.len()..] {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_prints() {
        let text = "  Latency Distribution\n     50%    3.20ms\n     99%    9.10ms\nRequests/sec:   9364.12\n";
        let seen = parse(text).expect("understood");
        assert_eq!((seen.rate, seen.p50_ms, seen.p99_ms), (9364.12, 3.2, 9.1));
        assert_eq!(seen.errors, 0);
        let failing = format!(
            "  Socket errors: connect 0, read 3, write 0, timeout 2\n  Non-2xx or 3xx responses: 40\n{text}"
        );
        assert_eq!(parse(&failing).expect("understood").errors, 45);
        assert_eq!(millis("870.00us"), Some(0.87));
        assert!(parse("nothing").is_none());
    }
}
