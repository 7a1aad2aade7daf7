//! vLLM's engine cores as the server's engine.

mod process;
mod text_side;

use std::sync::Arc;

use anyhow::{Result, bail};
use futures_util::FutureExt as _;
use tokio::runtime::Runtime;
use wayfare_engine::{OutputSink, SchedulingPolicy};
use wayfare_engine_vllm::{
    AttachOptions, AttachedEngines, EngineAddress, Launch, Meeting, ModelFacts, Phase, VllmEngine, Watch,
};
use wayfare_journey::{Clock, EngineBoard, WallAnchor};
use wayfare_text::TextFiles;

use self::process::VllmProcess;
use self::text_side::TextSide;
use crate::cli::{EngineOptions, KvCacheDtype, PolicyOption, RestartOption, ServeOptions, VllmOptions};
use crate::model::ModelArgument;
use crate::seat::SeatEngines;
use crate::signals::EndSignals;
use crate::simulation::refuse_for_real_model;

/// Where engines that are started here say hello; the port is any that is free.
const OWN_HOST: &str = "127.0.0.1";

/// Engine cores that are ready, and the text side of their model.
pub(crate) struct VllmBackend {
    engines: AttachedEngines,
    /// Ended with the server, when it was started by it.
    process: Option<Arc<VllmProcess>>,
    pub(crate) text: TextFiles,
}

impl VllmBackend {
    /// Starts engine cores or waits for those that others start, at the listeners that were handed over if some were.
    ///
    /// # Errors
    /// When the model's text files cannot be read, or no engine cores come.
    pub(crate) fn attach(
        model: &ModelArgument,
        options: &ServeOptions,
        given: Option<SeatEngines>,
        runtime: &Runtime,
        clock: Arc<dyn Clock>,
        wall: WallAnchor,
    ) -> Result<Self> {
        let ServeOptions { engine, vllm: options, simulation, .. } = options;
        refuse_for_real_model(simulation)?;
        refuse_local_options(engine)?;
        let TextSide { text, vocab_size, has_experts } = TextSide::read(model)?;
        if has_experts {
            refuse_ranks_of_experts(given.as_ref(), options)?;
        }
        let own = || EngineAddress::Tcp { host: OWN_HOST.to_owned(), port: 0 };
        let mut engine_count = options.engine_count.get();
        // In the seat vLLM ends as a whole.
        let mut takes_back = false;
        let (meeting, launch, process) = match (given, &options.engine_address) {
            (Some(given), _) => {
                engine_count = given.count;
                let meeting = Meeting::Given { listeners: given.listeners, first_rank: given.first_rank };
                (meeting, await_others(end_signals(runtime)?), None)
            }
            (None, None) => {
                let command = process::command(model, options, engine)?;
                let process = Arc::new(VllmProcess::new(command, options.vllm_restart));
                takes_back = options.vllm_restart == RestartOption::OnFailure;
                let meeting = Meeting::Handshake { address: own(), advertise_host: None };
                (meeting, launch(Arc::clone(&process), end_signals(runtime)?), Some(process))
            }
            (None, Some(address)) => {
                refuse_options_of_others(options, engine)?;
                let advertise_host = options.engine_advertise_host.clone();
                takes_back = true;
                let meeting = Meeting::Handshake { address: address.clone(), advertise_host };
                (meeting, await_others(end_signals(runtime)?), None)
            }
        };
        let attach = AttachOptions {
            meeting,
            engine_count,
            ready_timeout: options.engine_ready_timeout,
            allow_untested: options.allow_untested_vllm,
            takes_back,
        };
        let policy = match engine.scheduling_policy {
            PolicyOption::Fcfs => SchedulingPolicy::Fcfs,
            PolicyOption::Priority => SchedulingPolicy::Priority,
        };
        let facts = ModelFacts { vocab_size, policy, sends_own_seeds: engine.seed.is_some() };
        let attached = AttachedEngines::attach(attach, facts, clock, wall, Some(launch));
        match attached {
            Ok(engines) => Ok(Self { engines, process, text }),
            Err(error) => {
                if let Some(process) = process {
                    process.stop();
                }
                Err(error.into())
            }
        }
    }

    pub(crate) fn engines(&self) -> &AttachedEngines {
        &self.engines
    }

    /// Begins to serve.
    pub(crate) fn start(
        self,
        sink: Box<dyn OutputSink>,
        board: Option<EngineBoard>,
    ) -> (RunningVllm, TextFiles) {
        let engine = Arc::new(self.engines.serve(sink, board));
        (RunningVllm { engine, process: self.process }, self.text)
    }
}

/// Engine cores in use.
pub(crate) struct RunningVllm {
    pub(crate) engine: Arc<VllmEngine>,
    process: Option<Arc<VllmProcess>>,
}

impl RunningVllm {
    /// Aborts what is in flight, and ends the engine cores that were started here.
    pub(crate) fn stop(&self) {
        self.engine.stop();
        if let Some(process) = &self.process {
            process.stop();
        }
    }
}

fn end_signals(runtime: &Runtime) -> Result<EndSignals> {
    let _in_runtime = runtime.enter();
    Ok(EndSignals::listen()?)
}

/// A signal that came, if one did.
fn signal_came(signals: &mut EndSignals) -> Option<String> {
    let signal = signals.next().now_or_never()?;
    Some(format!("{signal} came before the engines were ready"))
}

fn launch(process: Arc<VllmProcess>, mut signals: EndSignals) -> Launch {
    Box::new(move |port| {
        process.start(OWN_HOST, port)?;
        let watch: Watch = Box::new(move |phase| match phase {
            Phase::Starting => signal_came(&mut signals).or_else(|| process.has_ended()),
            Phase::Serving => process.look_after(OWN_HOST, port),
        });
        Ok(watch)
    })
}

fn await_others(mut signals: EndSignals) -> Launch {
    Box::new(move |_| {
        let watch: Watch = Box::new(move |phase| match phase {
            Phase::Starting => signal_came(&mut signals),
            Phase::Serving => None,
        });
        Ok(watch)
    })
}

/// Options of vLLM's engine cores that say nothing to the engine in this process.
///
/// # Errors
/// When one of them was given.
pub(crate) fn refuse_vllm_options(options: &VllmOptions) -> Result<()> {
    let given = [
        ("--engine-address", options.engine_address.is_some()),
        ("--engine-count", options.engine_count.get() > 1),
        ("--allow-untested-vllm", options.allow_untested_vllm),
        ("--vllm-restart", options.vllm_restart != RestartOption::Never),
        ("options behind --", !options.vllm_options.is_empty()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => bail!("{name}: that is for --engine vllm, and the engine is the local one"),
        None => Ok(()),
    }
}

/// Options of the engine in this process that vLLM has no like of.
fn refuse_local_options(engine: &EngineOptions) -> Result<()> {
    let given = [
        ("--threads", engine.threads.is_some()),
        ("--kv-cache-dtype", engine.kv_cache_dtype != KvCacheDtype::Auto),
        ("--max-num-queued-reqs", engine.max_num_queued_reqs.is_some()),
        ("--max-num-queued-tokens", engine.max_num_queued_tokens.is_some()),
        ("--kv-cache-metrics", engine.kv_cache_metrics),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => {
            bail!("{name} is an option of the local engine and does nothing with --engine vllm")
        }
        None => Ok(()),
    }
}

/// The ranks of a mixture of experts exchange their experts' work in every step, so that all have to step together.
fn refuse_ranks_of_experts(given: Option<&SeatEngines>, options: &VllmOptions) -> Result<()> {
    let instead = match given {
        Some(given) if given.needs_coordinator => "start vLLM with --data-parallel-size 1",
        None if options.engine_count.get() > 1 => {
            "serve it with --engine-count 1, and its GPUs with --tensor-parallel-size and --enable-expert-parallel"
        }
        _ => return Ok(()),
    };
    bail!(
        "this model is a mixture of experts, whose data-parallel ranks need a coordinator between them, which wayfare \
         has not; {instead}"
    )
}

/// Options that would have to be given to engines that others start.
fn refuse_options_of_others(options: &VllmOptions, engine: &EngineOptions) -> Result<()> {
    if let Some(option) = process::passed_on(engine).first() {
        bail!(
            "{option} is set where the engines are started; with --engine-address they are not started here"
        );
    }
    if options.vllm_restart != RestartOption::Never {
        bail!("--vllm-restart is for engines that are started here; with --engine-address they are not");
    }
    let is_file = matches!(options.engine_address, Some(EngineAddress::Ipc { .. }));
    if is_file && options.engine_advertise_host.is_some() {
        bail!("--engine-advertise-host: a Unix socket has no host; engines connect to the file itself");
    }
    if !options.vllm_options.is_empty() {
        bail!("options behind -- are for engines that are started here; with --engine-address they are not");
    }
    Ok(())
}
