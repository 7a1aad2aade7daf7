//! The `vllm serve` that the server starts, watches and ends.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tracing::{info, warn};

use crate::cli::{EngineOptions, PolicyOption, VllmOptions};
use crate::model::ModelArgument;

/// How often it is looked whether vLLM has ended before it is killed: for 15 seconds.
const END_POLLS: u32 = 300;
const END_POLL: Duration = Duration::from_millis(50);

/// What is to be started.
pub(super) struct VllmCommand {
    program: PathBuf,
    arguments: Vec<String>,
    engine_count: u16,
}

/// `vllm serve MODEL --headless` and the options that mean the same there.
pub(super) fn command(
    model: &ModelArgument,
    options: &VllmOptions,
    engine: &EngineOptions,
) -> Result<VllmCommand> {
    let name = match model {
        ModelArgument::Local(path) => path.display().to_string(),
        ModelArgument::Hub { owner, repository, file: None } => format!("{owner}/{repository}"),
        ModelArgument::Hub { owner, repository, file: Some(file) } => format!("{owner}/{repository}/{file}"),
        ModelArgument::Simulated => bail!("vLLM does not know the simulated engine"),
    };
    let mut arguments = vec!["serve".to_owned(), name, "--headless".to_owned()];
    arguments.extend(passed_on(engine));
    if engine.scheduling_policy == PolicyOption::Priority {
        arguments.push("--scheduling-policy=priority".to_owned());
    }
    arguments.extend(options.vllm_options.iter().cloned());
    Ok(VllmCommand {
        program: options.vllm_command.clone(),
        arguments,
        engine_count: options.engine_count.get(),
    })
}

/// The options that were given and mean the same to vLLM, as its arguments. Not the policy, which the server must know
/// whoever starts the engines.
pub(super) fn passed_on(engine: &EngineOptions) -> Vec<String> {
    let number = |name: &str, value: Option<u32>| value.map(|value| format!("{name}={value}"));
    let flag = |name: &str, is_given: bool| is_given.then(|| name.to_owned());
    let threshold = Some(engine.long_prefill_token_threshold).filter(|tokens| *tokens > 0);
    [
        number("--max-model-len", engine.max_model_len.map(Into::into)),
        number("--max-num-seqs", engine.max_num_seqs.map(Into::into)),
        number("--max-num-batched-tokens", engine.max_num_batched_tokens.map(Into::into)),
        number("--block-size", engine.block_size.map(Into::into)),
        number("--num-gpu-blocks-override", engine.num_gpu_blocks_override.map(Into::into)),
        number("--long-prefill-token-threshold", threshold),
        flag("--enable-chunked-prefill", engine.enable_chunked_prefill),
        flag("--no-enable-chunked-prefill", engine.no_enable_chunked_prefill),
        flag("--enable-prefix-caching", engine.enable_prefix_caching),
        flag("--no-enable-prefix-caching", engine.no_enable_prefix_caching),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// vLLM as a child of this process, once it is started.
pub(super) struct VllmProcess {
    command: VllmCommand,
    child: Mutex<Option<Child>>,
}

impl VllmProcess {
    pub(super) fn new(command: VllmCommand) -> Self {
        Self { command, child: Mutex::new(None) }
    }

    /// Starts it; its engine cores say hello at this port. Fails with what to tell the operator.
    pub(super) fn start(&self, host: &str, port: u16) -> Result<(), String> {
        let VllmCommand { program, arguments, engine_count } = &self.command;
        let count = engine_count.to_string();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["--data-parallel-address", host, "--data-parallel-rpc-port", &port.to_string()])
            .args(["--data-parallel-size", &count, "--data-parallel-size-local", &count])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at a terminal is for the server, which lets requests end first.
            .process_group(0);
        info!("starting {} {}", program.display(), arguments.join(" "));
        let mut child = command.spawn().map_err(|error| {
            format!(
                "{} cannot be started ({error}); install vLLM (pip install vllm), or name the program in \
                 --vllm-command",
                program.display()
            )
        })?;
        if let Some(output) = child.stdout.take() {
            pass_on_output(output);
        }
        if let Some(output) = child.stderr.take() {
            pass_on_output(output);
        }
        *self.child.lock() = Some(child);
        Ok(())
    }

    /// That it has ended of itself, in words.
    pub(super) fn has_ended(&self) -> Option<String> {
        let status = self.child.lock().as_mut()?.try_wait().ok()??;
        Some(format!("vLLM has ended ({status}) before it was ready; what it wrote above says why"))
    }

    /// Ends it, and waits until it has ended.
    pub(super) fn stop(&self) {
        let Some(mut child) = self.child.lock().take() else { return };
        let is_running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        if is_running(&mut child)
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        for _ in 0..END_POLLS {
            if !is_running(&mut child) {
                break;
            }
            std::thread::sleep(END_POLL);
        }
        if is_running(&mut child) {
            warn!("vLLM does not end and is killed; its engine processes may remain");
            let _ = child.kill();
        }
        let _ = child.wait();
    }
}

impl Drop for VllmProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Writes what it writes to our standard error, with its name before each line.
fn pass_on_output(output: impl Read + Send + 'static) {
    // Ends with the output. Without it, the process would wait for a reader once the pipe is full.
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let mut out = std::io::stderr().lock();
            let _ = out
                .write_all(b"[vllm] ")
                .and_then(|()| out.write_all(&line))
                .and_then(|()| out.write_all(b"\n"));
        }
    });
}
