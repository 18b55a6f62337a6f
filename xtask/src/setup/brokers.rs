//! MQTT brokers that tests run the whole way through, in `artifacts/tools/brokers`: mosquitto,
//! RabbitMQ with its Erlang, and NATS. They are unpacked, not installed: nothing is started by
//! a package, and no rights are needed.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::Result;

use super::debian;
use crate::{
    checkout::Checkout,
    pins::Pins,
    progress,
    stamp::{self, Stamp},
};

/// Brings the brokers, or says why they are not here: the tests that use them then say so, too.
pub(crate) fn ensure(checkout: &Checkout, pins: &Pins) -> Result<()> {
    let what = "MQTT brokers";
    let root = checkout.artifact("tools/brokers");
    let wanted = format!("{:?}", pins.debian.brokers);
    let stamp = Stamp::of(checkout, "brokers");
    if stamp.holds(&wanted) && root.join("bin/erl").exists() {
        progress::in_place(what);
        return Ok(());
    }
    if !debian::has_archive() {
        progress::left_out(
            what,
            "they come from Debian's archive, which is not known here",
        );
        return Ok(());
    }
    let unpacked = progress::step("MQTT brokers: mosquitto, RabbitMQ, NATS", || {
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        debian::unpack(&pins.debian.brokers, &root)
    });
    if let Err(error) = unpacked {
        progress::left_out(what, &format!("they cannot be had: {error:#}"));
        return Ok(());
    }
    erlang(&root)?;
    stamp.set(&wanted)
}

/// Erlang's own starter knows only the place that its package has.
fn erlang(root: &std::path::Path) -> Result<()> {
    let erlang = root.join("usr/lib/erlang");
    let mut runtime = None;
    for entry in fs::read_dir(&erlang)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("erts-"))
        {
            runtime = Some(path.join("bin"));
        }
    }
    let runtime = runtime.unwrap_or_else(|| erlang.join("bin"));
    let script = format!(
        "#!/bin/sh\nexport ROOTDIR='{}' BINDIR='{}' EMU=beam PROGNAME=erl\nexec \"$BINDIR/erlexec\" \"$@\"\n",
        erlang.display(),
        runtime.display()
    );
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    let epmd = bin.join("epmd");
    if !epmd.exists() {
        std::os::unix::fs::symlink(runtime.join("epmd"), epmd)?;
    }
    let erl = bin.join("erl");
    stamp::write(&erl, script.as_bytes())?;
    Ok(fs::set_permissions(
        &erl,
        fs::Permissions::from_mode(0o755),
    )?)
}
