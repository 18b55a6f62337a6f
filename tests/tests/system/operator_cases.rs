//! The ONNX project's own cases for its operators, one model each: what a node answers over HTTP is, to the bit, what
//! the same library gives in this process.
//!
//! ```text
//! model.onnx, input_N.pb ─┬─► library, in this process ────────────► outputs ─┐
//!                         └─► node ◄─ HTTP, binary and JSON ─► outputs ───────┴─► the same bits?
//! ```

mod library;
mod published;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use fleet_tests::{Checkout, Serve, http};

use library::Library;
use published::{Case, Kind};
use wire::Tensor;

/// Models that one node serves at a time.
const AT_ONCE: usize = 300;

/// How many cases end how, with the pinned library and the pinned cases. A case that moves is looked at.
const EXPECTED: [(Outcome, usize); 8] = [
    (Outcome::NoTensors, 29),
    (Outcome::TypeWithoutForm, 164),
    (Outcome::NotLoaded, 39),
    (Outcome::NotRun, 2),
    (Outcome::Random, 0),
    (Outcome::Served, 1419),
    (Outcome::ServedInJson, 1388),
    (Outcome::AsPublished, 1390),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Sequences, maps or optional values.
    NoTensors,
    /// Complex numbers, 8-bit floats or 4-bit integers, which the protocol does not know.
    TypeWithoutForm,
    /// The library does not load the model.
    NotLoaded,
    /// The library loads the model and does not run it on the case's inputs.
    NotRun,
    /// The library's own answers differ from run to run.
    Random,
    /// The same bits in binary.
    Served,
    /// The same bits in JSON.
    ServedInJson,
    /// Within tolerance of what the case says.
    AsPublished,
}

/// A case that the library runs.
struct Ran {
    name: String,
    model: PathBuf,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

#[derive(Default)]
struct Counts(BTreeMap<Outcome, Vec<String>>);

impl Counts {
    fn add(&mut self, outcome: Outcome, name: &str) {
        self.0.entry(outcome).or_default().push(name.to_owned());
    }

    fn of(&self, outcome: Outcome) -> usize {
        self.0.get(&outcome).map_or(0, Vec::len)
    }

    fn without_an_answer(&self) -> [Option<&Vec<String>>; 3] {
        [Outcome::NotLoaded, Outcome::NotRun, Outcome::Random].map(|outcome| self.0.get(&outcome))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_answer_over_http_as_the_library_does_in_this_process() -> Result<()> {
    let folder = Checkout::artifact("data/onnx-node")?;
    let library = Library::open(&Checkout::artifact("lib/libonnxruntime.so")?)?;
    let mut names = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    let mut counts = Counts::default();
    let mut cases = Vec::new();
    for name in names {
        let ran = in_this_process(&library, &folder, &name)
            .with_context(|| format!("case {name} cannot be read"))?;
        match ran {
            Ok((ran, as_published)) => {
                if as_published {
                    counts.add(Outcome::AsPublished, &name);
                }
                cases.push(ran);
            }
            Err(outcome) => counts.add(outcome, &name),
        }
    }
    let mut differing = Vec::new();
    for group in cases.chunks(AT_ONCE) {
        over_http(group, &mut counts, &mut differing).await?;
    }
    for outcome in EXPECTED.map(|(outcome, _)| outcome) {
        println!("{outcome:?}: {}", counts.of(outcome));
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    let counted = EXPECTED.map(|(outcome, _)| (outcome, counts.of(outcome)));
    // Another kind of machine has other kernels.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(counted, EXPECTED, "{:?}", counts.without_an_answer());
    } else {
        assert!(counts.of(Outcome::Served) > 1300, "{counted:?}");
    }
    Ok(())
}

/// Runs a case in this process, twice; also tells whether it gave what the case says.
fn in_this_process(
    library: &Library,
    folder: &Path,
    name: &str,
) -> Result<Result<(Ran, bool), Outcome>> {
    let model = folder.join(name).join("model.onnx");
    let case = match Case::read(&model)? {
        Kind::Tensors(case) => case,
        Kind::NoTensors => return Ok(Err(Outcome::NoTensors)),
        Kind::TypeWithoutForm => return Ok(Err(Outcome::TypeWithoutForm)),
    };
    let mut runs = Vec::new();
    for _ in 0..2 {
        let Ok(mut session) = library.load(&model) else {
            return Ok(Err(Outcome::NotLoaded));
        };
        let Ok(outputs) = library::run(&mut session, &case.inputs) else {
            return Ok(Err(Outcome::NotRun));
        };
        runs.push(outputs);
    }
    let outputs = runs.swap_remove(0);
    if outputs != runs[0] {
        return Ok(Err(Outcome::Random));
    }
    let as_published = published::within_tolerance(&outputs, &case.outputs);
    let ran = Ran {
        name: name.to_owned(),
        model,
        inputs: case.inputs,
        outputs,
    };
    Ok(Ok((ran, as_published)))
}

async fn over_http(group: &[Ran], counts: &mut Counts, differing: &mut Vec<String>) -> Result<()> {
    let models = group.iter().enumerate();
    let models = models.map(|(index, ran)| format!("case-{index}={}", ran.model.display()));
    let models: Vec<String> = models.collect();
    let arguments: Vec<&str> = models.iter().flat_map(|m| ["--model", m]).collect();
    let mut serve = Serve::start(&arguments).await?;
    let client = http::plain()?;
    for (index, ran) in group.iter().enumerate() {
        let url = format!("{}/v2/models/case-{index}/infer", serve.url);
        let mut same = async |form: wire::Form| -> Result<bool> {
            let outputs = wire::infer(&client, &url, &ran.inputs, &ran.outputs, form).await;
            let outputs = outputs.with_context(|| format!("{} as {form:?}", ran.name));
            let problem = match outputs {
                Ok(outputs) => wire::difference(&outputs, &ran.outputs, form)
                    .map(|problem| format!("{} as {form:?}: {problem}", ran.name)),
                Err(error) => Some(format!("{error:#}")),
            };
            let same = problem.is_none();
            differing.extend(problem);
            Ok(same)
        };
        if same(wire::Form::Binary).await? {
            counts.add(Outcome::Served, &ran.name);
        }
        let tensors = || ran.inputs.iter().chain(&ran.outputs);
        if tensors().all(Tensor::has_json_form) && same(wire::Form::Json).await? {
            counts.add(Outcome::ServedInJson, &ran.name);
        }
    }
    ensure!(serve.process.has_ended().is_none(), "the node has ended");
    Ok(())
}
