//! Builds the guests of modules/foreign-* that are not Rust, each by the tools
//! of its own language.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    checkout::Checkout,
    command,
    pins::Pins,
    progress,
    setup::builders::Builders,
    stamp::{self, Stamp},
};

/// The interfaces that they are built against, as new projects get them.
const WIT: &str = "edgectl/templates/wit/deps";
/// What they are: handlers by the standard, and no more.
const WORLD: &str = "package foreign:guest;

world guest {
    import wasi:http/types@0.2.10;
    export wasi:http/incoming-handler@0.2.10;
}
";
/// What the tools are, for those that are not pinned in xtask/pins.toml.
const PINS: [&str; 2] = ["xtask/pins.toml", "edgectl/templates/js/package-lock.json"];
const BARE_C: [&str; 9] = [
    "-target",
    "wasm32-freestanding",
    "-Os",
    "-nostdlib",
    "-fno-sanitize=all",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wl,--no-entry,--strip-all",
];

/// Builds those whose sources or tools have changed.
pub(crate) fn build(checkout: &Checkout) -> Result<()> {
    progress::heading("guests in other languages, into artifacts/modules/");
    let builders = Builders::ensure(checkout, &Pins::load()?)?;
    let work = checkout.artifact("build/foreign");
    stamp::write(&work.join("wit/world.wit"), WORLD.as_bytes())?;
    let wit = checkout.root().join(WIT);
    for entry in fs::read_dir(&wit).with_context(|| format!("failed to list {}", wit.display()))? {
        let entry = entry?;
        let place = work.join("wit/deps").join(entry.file_name());
        stamp::write(&place, &fs::read(entry.path())?)?;
    }
    let foreign = Foreign {
        checkout,
        builders,
        work,
    };
    foreign.built("foreign-js", Foreign::js)?;
    foreign.built("foreign-python", Foreign::python)?;
    foreign.built("foreign-c", Foreign::c)
}

struct Foreign<'a> {
    checkout: &'a Checkout,
    builders: Builders,
    work: PathBuf,
}

impl Foreign<'_> {
    fn built(&self, name: &str, build: fn(&Self) -> Result<()>) -> Result<()> {
        let folder = format!("modules/{name}");
        let mut sources = vec![folder.as_str(), WIT];
        sources.extend(PINS);
        let digest = stamp::digest_of(self.checkout, &sources, &[WORLD, &BARE_C.join(" ")])?;
        let stamp = Stamp::of(self.checkout, name);
        let place = self.checkout.artifact(format!("modules/{name}.wasm"));
        if stamp.holds(&digest) && place.exists() {
            progress::in_place(name);
            return Ok(());
        }
        progress::step(name, || {
            build(self)?;
            let built = self.out(name);
            let bytes =
                fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
            stamp::write(&place, &bytes)?;
            stamp.set(&digest)
        })
    }

    fn js(&self) -> Result<()> {
        let mut componentize = self.builders.npm_program("componentize-js");
        componentize
            .arg("modules/foreign-js/guest.js")
            .args(["--world-name", "guest", "--wit"])
            .arg(self.work.join("wit"))
            .arg("--out")
            .arg(self.out("foreign-js"));
        self.run(&mut componentize)
    }

    fn python(&self) -> Result<()> {
        let mut componentize = self.builders.componentize_py();
        componentize
            .args(["--quiet", "--world", "guest", "--wit-path"])
            .arg(self.work.join("wit"))
            .args(["componentize", "guest"])
            .args(["--python-path", "modules/foreign-python", "--output"])
            .arg(self.out("foreign-python"));
        self.run(&mut componentize)
    }

    fn c(&self) -> Result<()> {
        let (plain, described) = (self.work.join("c.wasm"), self.work.join("c-described.wasm"));
        let mut compile = self.builders.zig_cc(self.checkout);
        compile.args(BARE_C).arg("-o").arg(&plain);
        self.run(compile.arg("modules/foreign-c/guest.c"))?;
        let mut embed = self.builders.npm_program("jco");
        embed.args(["embed", "--world-name", "guest", "--wit"]);
        embed.arg(self.work.join("wit")).arg("-o").arg(&described);
        self.run(embed.arg(&plain))?;
        let mut new = self.builders.npm_program("jco");
        new.arg("new").arg(&described).arg("-o");
        self.run(new.arg(self.out("foreign-c")))
    }

    fn out(&self, name: &str) -> PathBuf {
        self.work.join(format!("{name}.wasm"))
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        command::output(command.current_dir(self.checkout.root())).map(drop)
    }
}
