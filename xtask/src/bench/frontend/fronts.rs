//! The fronts that are compared, each with an engine core of its own: this server, and what vLLM brings along.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::Options;
use crate::bench::subject::Laboratory;
use crate::server::ServerProcess;
use crate::{model, vllm_real, wheel};

/// vLLM's front in Rust is in the wheel for GPUs only.
const WHEEL: &str = "vllm==0.32.0";
const VLLM_RS_IN_WHEEL: &str = "vllm/vllm-rs";
/// vLLM's API server loads its libraries for a while.
const START_TIME: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The name by which all of them know the model.
pub(super) const MODEL_NAME: &str = "bench";

/// What is in front of the engine core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FrontKind {
    WayfareTraced,
    WayfareUntraced,
    VllmRs,
    VllmPython,
}

impl FrontKind {
    pub(super) const ALL: [Self; 4] =
        [Self::WayfareTraced, Self::WayfareUntraced, Self::VllmRs, Self::VllmPython];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WayfareTraced => "wayfare, all requests traced",
            Self::WayfareUntraced => "wayfare, tracing off",
            Self::VllmRs => "vLLM 0.32.0, Rust front",
            Self::VllmPython => "vLLM 0.32.0, Python server",
        }
    }
}

/// vLLM's programs, and a model whose text side all fronts read.
pub(super) struct Programs {
    vllm: PathBuf,
    vllm_rs: PathBuf,
    model: PathBuf,
}

impl Programs {
    /// Those that the options name, or else those in the cache, which are put there if need be.
    ///
    /// # Errors
    /// When they cannot be had.
    pub(super) fn find(options: &Options) -> Result<Self> {
        let real = match (&options.vllm, &options.model) {
            (Some(_), Some(_)) => None,
            _ => Some(vllm_real::ensure()?),
        };
        let or = |named: &Option<PathBuf>, of_real: fn(&vllm_real::RealVllm) -> &Path| {
            named.clone().or_else(|| real.as_ref().map(|real| of_real(real).to_path_buf()))
        };
        Ok(Self {
            vllm: or(&options.vllm, |real| &real.program).context("there is no vllm")?,
            model: or(&options.model, |real| &real.model).context("there is no model")?,
            vllm_rs: options.vllm_rs.clone().map_or_else(ensure_vllm_rs, Ok)?,
        })
    }
}

/// `vllm-rs` in the cache.
fn ensure_vllm_rs() -> Result<PathBuf> {
    let folder = model::home()?.join("vllm-rs");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let place = folder.join("vllm-rs-0.32.0");
    if !place.exists() {
        eprintln!("Fetching vLLM's front in Rust (out of a wheel of 330 MB) …");
        let scratch = tempfile::tempdir_in(&folder)?;
        let fetched = wheel::fetch(WHEEL, VLLM_RS_IN_WHEEL, scratch.path())?;
        fs::set_permissions(&fetched, fs::Permissions::from_mode(0o755))?;
        fs::rename(fetched, &place)?;
    }
    Ok(place)
}

/// A front that serves, and the engine core behind it.
pub(super) struct Front {
    pub(super) kind: FrontKind,
    pub(super) url: String,
    pub(super) pid: u32,
    /// Dropped before the engine core, whose end would be an error to it.
    process: Process,
    engine: MockEngine,
}

enum Process {
    Wayfare(ServerProcess),
    Vllm(Child),
}

impl Front {
    /// Starts a front on the server's cores and an engine core on the driver's.
    ///
    /// # Errors
    /// When one of them does not start.
    pub(super) fn start(kind: FrontKind, laboratory: &Laboratory, programs: &Programs) -> Result<Self> {
        eprintln!("starting {} …", kind.name());
        let port = free_ports()?;
        let address = format!("tcp://127.0.0.1:{port}");
        let engine =
            laboratory.cores.on_driver_cores(|| MockEngine::start(&laboratory.mock_vllm, &address))?;
        let (process, url, pid) = match kind {
            FrontKind::WayfareTraced | FrontKind::WayfareUntraced => {
                let model = programs.model.to_string_lossy();
                let mut arguments = vec![&*model, "--served-model-name", MODEL_NAME];
                arguments.extend(["--engine", "vllm", "--engine-address", &address]);
                if kind == FrontKind::WayfareTraced {
                    arguments.extend(["--enable-journey-tracing", "--journey-tracing-sample-rate", "1"]);
                    arguments.extend(["--otlp-traces-endpoint", laboratory.driver.sink()]);
                }
                let arguments: Vec<String> = arguments.into_iter().map(String::from).collect();
                let server = laboratory.serve(&arguments)?;
                let (url, pid) = (server.address().to_owned(), server.id());
                (Process::Wayfare(server), url, pid)
            }
            FrontKind::VllmRs | FrontKind::VllmPython => {
                let mut command = programs.vllm_front(kind, port);
                let mut child = laboratory.cores.on_server_cores(|| {
                    let program = command.get_program().to_string_lossy().into_owned();
                    command.spawn().with_context(|| format!("cannot start {program}"))
                })?;
                let url = format!("http://127.0.0.1:{}", port + HTTP_OFFSET);
                if let Err(error) = wait_until_healthy(&mut child, &url) {
                    end(&mut child);
                    return Err(error.context(kind.name()));
                }
                let pid = child.id();
                (Process::Vllm(child), url, pid)
            }
        };
        Ok(Self { kind, url, pid, process, engine })
    }

    /// Sets how long a step of its engine core takes.
    ///
    /// # Errors
    /// When that has ended.
    pub(super) fn pace(&mut self, step_us: u32) -> Result<()> {
        writeln!(self.engine.input()?, "{step_us}").context("the mock engine core has ended")
    }

    /// Ends it.
    ///
    /// # Errors
    /// When this server ended badly.
    pub(super) fn stop(mut self) -> Result<()> {
        match &mut self.process {
            Process::Wayfare(server) => server.stop(),
            Process::Vllm(child) => {
                end(child);
                Ok(())
            }
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Process::Vllm(child) = &mut self.process {
            end(child);
        }
    }
}

impl Programs {
    /// A front of vLLM that waits at `port` for an engine core that others start.
    fn vllm_front(&self, kind: FrontKind, port: u16) -> Command {
        let is_rust = kind == FrontKind::VllmRs;
        let mut command = Command::new(if is_rust { &self.vllm_rs } else { &self.vllm });
        command.arg("serve").arg(&self.model).args(["--served-model-name", MODEL_NAME]);
        command.args(["--host", "127.0.0.1", "--port", &(port + HTTP_OFFSET).to_string()]);
        command.args(["--data-parallel-address", "127.0.0.1", "--data-parallel-rpc-port", &port.to_string()]);
        command.args(["--data-parallel-size", "1", "--data-parallel-size-local", "0"]);
        if !is_rust {
            // A line for each request is not what is compared. The others need no GPU to be told that there is none.
            command.args(["--disable-uvicorn-access-log", "--enforce-eager"]);
        }
        command.env("VLLM_LOGGING_LEVEL", "ERROR").env("RUST_LOG", "error");
        command.env("VLLM_CPU_KVCACHE_SPACE", "1").env("HF_HUB_OFFLINE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// The HTTP port of vLLM's fronts behind that of the handshake.
const HTTP_OFFSET: u16 = 3;

/// The first of a few ports, one behind the other, that were free a moment ago: of the handshake, of requests, of outputs,
/// and of HTTP.
fn free_ports() -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let Some(last) = first.checked_add(HTTP_OFFSET) else { continue };
        if (first..=last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("there are no free ports")
}

fn wait_until_healthy(child: &mut Child, url: &str) -> Result<()> {
    let mut looks = START_TIME.as_millis() / LOOK_EVERY.as_millis();
    loop {
        if ureq::get(format!("{url}/health")).call().is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("it did not start: {status}");
        }
        looks -= 1;
        if looks == 0 {
            bail!("it is not ready after {START_TIME:?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn end(child: &mut Child) {
    // Harmless when it has ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// The process that plays an engine core. Killed when dropped.
struct MockEngine(Child);

impl MockEngine {
    fn start(program: &Path, address: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(address).stdin(Stdio::piped());
        Ok(Self(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
    }

    fn input(&mut self) -> Result<&mut std::process::ChildStdin> {
        self.0.stdin.as_mut().context("the mock engine core has no input")
    }
}

impl Drop for MockEngine {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}
