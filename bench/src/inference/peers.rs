//! Other inference servers, each with the same models: as Python packages into
//! environments of their own below `artifacts/peers`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use fleet_tests::Checkout;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::workload::Model;
use crate::program::{Served, free_address};

/// The library sends usage to its maker unless it is told not to.
pub(super) const QUIET: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

/// A server to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// hyper and ONNX Runtime with nothing between them, of this crate.
    Naive,
    Triton,
    MlServer,
    KServe,
}

impl Peer {
    pub(super) const ALL: [Peer; 4] = [Peer::Naive, Peer::Triton, Peer::MlServer, Peer::KServe];

    pub(super) fn name(self) -> &'static str {
        match self {
            Peer::Naive => "naive",
            Peer::Triton => "Triton",
            Peer::MlServer => "MLServer",
            Peer::KServe => "KServe",
        }
    }

    /// MLServer knows JSON only.
    pub(super) fn takes_binary(self) -> bool {
        self != Peer::MlServer
    }

    fn folder(self) -> Option<PathBuf> {
        let name = match self {
            Peer::Naive => return None,
            Peer::Triton => "triton",
            Peer::MlServer => "mlserver",
            Peer::KServe => "kserve",
        };
        Some(Checkout::root().join("artifacts/peers").join(name))
    }

    /// What has to be on a disk for it, without Python itself.
    pub(super) fn files(self) -> Result<Vec<PathBuf>> {
        match self.folder() {
            Some(folder) => Ok(vec![folder.join("lib")]),
            None => Ok(vec![
                Checkout::program("naive-server")?,
                Checkout::artifact("lib/libonnxruntime.so")?,
            ]),
        }
    }

    /// Starts it, if it is there.
    pub(super) async fn start(self, models: &[Model]) -> Result<Option<Served>> {
        let dir = tempfile::tempdir()?;
        let Some(folder) = self.folder() else {
            return naive(dir, models).await.map(Some);
        };
        if !folder.join(INSTALLED).exists() {
            eprintln!(
                "{} is not there to compare with: run again with --with-peers",
                self.name()
            );
            return Ok(None);
        }
        let served = match self {
            Peer::Naive => unreachable!("it has no folder"),
            Peer::Triton => triton(&folder, dir, models).await,
            Peer::MlServer => mlserver(&folder, dir, models).await,
            Peer::KServe => kserve(&folder, dir, models).await,
        };
        served
            .map(Some)
            .with_context(|| format!("start {}", self.name()))
    }
}

/// Kept in each environment: what it was made from.
const INSTALLED: &str = "requirements.txt";

/// Makes the environments that are not there or are made from other packages.
pub(crate) async fn install() -> Result<()> {
    for peer in Peer::ALL {
        let Some(folder) = peer.folder() else {
            continue;
        };
        let name = folder.file_name().context("a folder has a name")?;
        let wanted = scripts().join(name).with_extension("txt");
        let wanted = std::fs::read_to_string(wanted)?;
        let installed = folder.join(INSTALLED);
        if std::fs::read_to_string(&installed).is_ok_and(|found| found == wanted) {
            continue;
        }
        eprintln!("installing {} into {}", peer.name(), folder.display());
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let path = folder.display().to_string();
        run("python3", &["-m", "venv", &path]).await?;
        let list = folder.join("wanted.txt");
        std::fs::write(&list, &wanted)?;
        let pip =
            "-m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: -r";
        let mut args: Vec<_> = pip.split(' ').collect();
        let list = list.display().to_string();
        args.push(&list);
        run(&python(&folder).display().to_string(), &args).await?;
        if peer == Peer::Triton {
            // The backend starts the stub that was built for this Python, and looks for it beside itself.
            let server = packages(&folder)?.join("pytriton/tritonserver");
            let version = packages(&folder)?;
            let version = version.parent().and_then(Path::file_name);
            let version = version.map(|name| name.to_string_lossy().replace("python", ""));
            let stub = "triton_python_backend_stub";
            std::fs::copy(
                server
                    .join("python_backend_stubs")
                    .join(version.unwrap_or_default())
                    .join(stub),
                server.join("backends/python").join(stub),
            )
            .context("Triton has no stub for this Python")?;
        }
        std::fs::rename(folder.join("wanted.txt"), installed)?;
    }
    Ok(())
}

async fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).status().await?;
    ensure!(
        status.success(),
        "{program} {} ended with {status}",
        args.join(" ")
    );
    Ok(())
}

fn scripts() -> PathBuf {
    Checkout::root().join("bench/peers")
}

fn python(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

/// Where an environment keeps its packages.
fn packages(folder: &Path) -> Result<PathBuf> {
    let mut versions = std::fs::read_dir(folder.join("lib"))?;
    let version = versions.next().context("an environment has a Python")??;
    Ok(version.path().join("site-packages"))
}

async fn naive(dir: TempDir, models: &[Model]) -> Result<Served> {
    let address = free_address()?;
    let library = Checkout::artifact("lib/libonnxruntime.so")?;
    let library = library.display().to_string();
    let mut args = vec!["serve".to_owned(), address.clone()];
    args.extend(named_files(models)?);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let env = [QUIET, ("ORT_DYLIB_PATH", &*library)];
    let program = Checkout::program("naive-server")?;
    Served::other(&program, &args, &env, &address, "/", dir).await
}

/// With the Python backend, for which the package has all that is needed; the requests that wait run as one batch.
async fn triton(folder: &Path, dir: TempDir, models: &[Model]) -> Result<Served> {
    let repository = dir.path().join("models");
    for model in models {
        let place = repository.join(model.name);
        std::fs::create_dir_all(place.join("1"))?;
        std::fs::copy(scripts().join("triton.py"), place.join("1/model.py"))?;
        std::fs::copy(Checkout::model(model.name)?, place.join("1/model.onnx"))?;
        let Model {
            name,
            shape,
            output,
            output_shape,
            ..
        } = model;
        // The tiny model is served as quickly by one instance as by two; the others use both cores.
        let count = if model.name == super::workload::TINY.name {
            1
        } else {
            2
        };
        let config = format!(
            "name: {name:?}\nbackend: \"python\"\nmax_batch_size: 16\n\
             input [{{ name: \"x\" data_type: TYPE_FP32 dims: {:?} }}]\n\
             output [{{ name: {output:?} data_type: TYPE_FP32 dims: {output_shape:?} }}]\n\
             instance_group [{{ count: {count} kind: KIND_CPU }}]\ndynamic_batching {{ }}\n",
            &shape[1..]
        );
        std::fs::write(place.join("config.pbtxt"), config)?;
    }
    let packages = packages(folder)?;
    let server = packages.join("pytriton/tritonserver");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.join("bin").display());
    let address = free_address()?;
    let port = port(&address);
    let text = |path: &Path| path.display().to_string();
    let (repository, backends) = (text(&repository), text(&server.join("backends")));
    let args = [
        "--model-repository",
        &repository,
        "--backend-directory",
        &backends,
        "--http-address",
        "127.0.0.1",
        "--http-port",
        port,
        "--allow-grpc",
        "false",
        "--allow-metrics",
        "false",
        "--pinned-memory-pool-byte-size",
        "0",
    ];
    let packages = text(&packages);
    let env = [QUIET, ("PATH", &*path), ("PYTHONPATH", &*packages)];
    let program = server.join("bin/tritonserver");
    Served::other(&program, &args, &env, &address, "/v2/health/ready", dir).await
}

async fn mlserver(folder: &Path, dir: TempDir, models: &[Model]) -> Result<Served> {
    let address = free_address()?;
    let root = dir.path().join("models");
    std::fs::create_dir(&root)?;
    let settings = json!({
        "debug": false,
        "host": "127.0.0.1",
        "http_port": port(&address).parse::<u16>()?,
        "grpc_port": port(&free_address()?).parse::<u16>()?,
        "metrics_endpoint": null,
        "parallel_workers": 0,
    });
    std::fs::write(root.join("settings.json"), settings.to_string())?;
    for model in models {
        let place = root.join(model.name);
        std::fs::create_dir(&place)?;
        let settings = json!({
            "name": model.name,
            "implementation": "mlserver_model.Onnx",
            "parameters": { "uri": Checkout::model(model.name)?, "version": "1" },
        });
        std::fs::write(place.join("model-settings.json"), settings.to_string())?;
    }
    let (root, scripts) = (root.display().to_string(), scripts().display().to_string());
    let program = folder.join("bin/mlserver");
    let env = [QUIET, ("PYTHONPATH", &*scripts)];
    let args = ["start", &root];
    Served::other(&program, &args, &env, &address, "/v2/health/ready", dir).await
}

async fn kserve(folder: &Path, dir: TempDir, models: &[Model]) -> Result<Served> {
    let address = free_address()?;
    let script = scripts().join("kserve_server.py").display().to_string();
    let mut args = vec![script, port(&address).to_owned()];
    args.extend(named_files(models)?);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let probe = "/v2/health/ready";
    Served::other(&python(folder), &args, &[QUIET], &address, probe, dir).await
}

fn named_files(models: &[Model]) -> Result<Vec<String>> {
    let named = models.iter().map(|model| {
        let file = Checkout::model(model.name)?;
        Ok(format!("{}={}", model.name, file.display()))
    });
    named.collect()
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}
