use anyhow::Result;

use crate::program::{Served, hello};
use crate::report::{Report, median};

/// From the start of the process to its first answer: with the component to be
/// compiled, and with what an earlier start has left.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let hello = hello()?;
    let [mut compiling, mut cached, mut other] = [const { Vec::new() }; 3];
    let ms = |served: &Served| served.first_answer.as_secs_f64() * 1e3;
    for _ in 0..rounds {
        let dir = tempfile::tempdir()?;
        for times in [&mut compiling, &mut cached] {
            times.push(ms(
                &Served::edge_runtime_in(dir.path(), &[&hello], "/").await?
            ));
        }
        // It keeps what it compiles for the user, so that only its very first start compiles.
        if let Some(served) = Served::wasmtime(&[&hello], "/").await? {
            other.push(ms(&served));
        }
    }
    report.add(
        "start to first answer, edge-runtime, component compiled",
        "ms",
        compiling,
    );
    report.add(
        "start to first answer, edge-runtime, from the cache",
        "ms",
        cached,
    );
    report.add(
        "start to first answer, wasmtime serve, from its cache",
        "ms",
        other,
    );
    Ok(())
}

/// Memory of many idle handlers, each a component of its own.
pub(crate) async fn many(count: usize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let component = std::fs::read(hello()?)?;
    let mut routes = Vec::new();
    for number in 0..count {
        // Another digest: a custom section with a number.
        let mut form = component.clone();
        form.extend([0, 6, 1, b'n']);
        form.extend(u32::try_from(number)?.to_le_bytes());
        let file = dir.path().join(format!("h{number}.wasm"));
        std::fs::write(&file, form)?;
        routes.push(format!("/h{number}={}", file.display()));
    }
    let args = |count: usize| -> Vec<&str> {
        let routes = routes[..count].iter();
        routes.flat_map(|route| ["--route", route]).collect()
    };
    // Once to compile, then from the cache.
    drop(Served::edge_runtime_in(dir.path(), &args(count), "/h0").await?);
    let one = Served::edge_runtime_in(dir.path(), &args(1), "/h0").await?;
    let alone = one.settled_mib().await?;
    drop(one);
    let last = format!("/h{}", count - 1);
    let all = Served::edge_runtime_in(dir.path(), &args(count), &last).await?;
    let http = fleet_tests::http::plain()?;
    let mut times = Vec::new();
    let with_all = all.settled_mib().await?;
    for number in 0..count {
        let begun = std::time::Instant::now();
        let answer = http.get(format!("{}/h{number}", all.url)).send().await?;
        anyhow::ensure!(answer.status() == 200, "/h{number}: {}", answer.status());
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let each = (with_all - alone) * 1024.0 / (count as f64 - 1.0);
    report.add("idle memory, 1 handler", "MiB", vec![alone]);
    report.add(
        &format!("idle memory, {count} handlers"),
        "MiB",
        vec![with_all],
    );
    report.add("idle memory, each further handler", "KiB", vec![each]);
    report.add(
        &format!("start to first answer, {count} handlers from the cache"),
        "ms",
        vec![all.first_answer.as_secs_f64() * 1e3],
    );
    report.add(
        "first answer of an idle handler",
        "ms",
        vec![median(&times)],
    );
    Ok(())
}
