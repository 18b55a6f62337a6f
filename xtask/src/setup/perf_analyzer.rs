//! Triton's load generator, `artifacts/tools/bin/perf_analyzer`.
//!
//! It is built against a C library newer than that of Debian 12. Where the machine's own is too old, a newer Debian's
//! is unpacked beside it, and the program is started by that library's own loader.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Context as _, Result};

use super::debian;
use crate::{
    checkout::Checkout,
    command,
    pins::Pins,
    progress,
    stamp::{self, Stamp},
};

/// The C library it was built for.
const NEEDED: (u32, u32) = (2, 38);
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Makes it startable, or says why it is not here: the tests that use it then say so, too.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    let what = "perf_analyzer";
    let place = checkout.artifact("tools/perf-analyzer");
    let program = place.join("perf_analyzer");
    if !program.exists() {
        progress::left_out(what, "there is none for this kind of machine");
        return Ok(());
    }
    let start = checkout.artifact("tools/bin/perf_analyzer");
    let own = own_library();
    let wanted = format!("{own:?} {:?}", pins.debian.beside);
    let stamp = Stamp::of(checkout, what);
    if stamp.holds(&wanted) && start.exists() {
        progress::in_place(what);
        return Ok(());
    }
    let root = place.join("root");
    let loader = if own >= NEEDED {
        String::new()
    } else if debian::has_archive() {
        let unpacked = progress::step("perf_analyzer: a C library beside the machine's", || {
            if root.exists() {
                fs::remove_dir_all(&root)?;
            }
            debian::unpack(&pins.debian.beside, &root)
        });
        if let Err(error) = unpacked {
            progress::left_out(what, &format!("a newer C library cannot be had: {error:#}"));
            return Ok(());
        }
        let libraries = root.join(LIBRARIES);
        let libraries = libraries.display();
        format!("'{libraries}/ld-linux-x86-64.so.2' --library-path '{libraries}' ")
    } else {
        progress::left_out(what, "the C library here is too old for it");
        return Ok(());
    };
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, executable.clone())?;
    let script = format!("#!/bin/sh\nexec {loader}'{}' \"$@\"\n", program.display());
    stamp::write(&start, script.as_bytes())?;
    fs::set_permissions(&start, executable)?;
    command::output(Command::new(&start).arg("--version"))
        .context("perf_analyzer does not start")?;
    stamp.set(&wanted)
}

/// The version of the machine's C library; 0.0 if it is another than glibc.
fn own_library() -> (u32, u32) {
    let text = command::output(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    let text = text.unwrap_or_default();
    let version = text.trim().trim_start_matches("glibc ");
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
