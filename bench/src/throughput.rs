use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::program::{Served, hello};
use crate::report::Report;

const SECONDS: &str = "5s";

/// Requests per second of the same component in turns, with `wrk -t1 -c32` on the same machine.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let hello = hello()?;
    let own = Served::edge_runtime(&[&hello], "/").await?;
    let other = Served::wasmtime(&[&hello], "/").await?;
    let [mut own_rates, mut own_p99, mut other_rates, mut other_p99] = [const { Vec::new() }; 4];
    wrk(&own.url, "1s").await?;
    for _ in 0..rounds {
        let (rate, p99) = wrk(&own.url, SECONDS).await?;
        own_rates.push(rate);
        own_p99.push(p99);
        if let Some(other) = &other {
            let (rate, p99) = wrk(&other.url, SECONDS).await?;
            other_rates.push(rate);
            other_p99.push(p99);
        }
    }
    report.add("hello, edge-runtime serve", "requests/s", own_rates);
    report.add("hello, wasmtime serve", "requests/s", other_rates);
    report.add(
        "hello p99 under that load, edge-runtime serve",
        "ms",
        own_p99,
    );
    report.add("hello p99 under that load, wasmtime serve", "ms", other_p99);
    Ok(())
}

/// Requests per second and the 99th percentile in milliseconds.
async fn wrk(url: &str, duration: &str) -> Result<(f64, f64)> {
    let output = Command::new("wrk")
        .args([
            "-t1",
            "-c32",
            "--latency",
            "-d",
            duration,
            &format!("{url}/"),
        ])
        .output()
        .await
        .context("wrk cannot be started: install it with `apt-get install wrk`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!(
            "wrk saw failures: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    parse(&text).with_context(|| format!("wrk's answer is not understood: {text}"))
}

fn parse(text: &str) -> Option<(f64, f64)> {
    let after = |key: &str| {
        text.lines()
            .find_map(|l| l.trim().strip_prefix(key))
            .map(str::trim)
    };
    Some((
        after("Requests/sec:")?.parse().ok()?,
        millis(after("99%")?)?,
    ))
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
        assert_eq!(parse(text), Some((9364.12, 9.1)));
        assert_eq!(millis("870.00us"), Some(0.87));
        assert_eq!(parse("nothing"), None);
    }
}
