//! The `vllm serve` that the server starts, watches and ends.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::cli::{EngineOptions, PolicyOption, RestartOption, VllmOptions};
use crate::model::ModelArgument;
use crate::parent::tied;

/// How often it is looked whether vLLM has ended before it is killed: for 15 seconds.
const END_POLLS: u32 = 300;
const END_POLL: Duration = Duration::from_millis(50);
/// The pause before it is started again: the first, doubled each time, and the longest. Whoever has run for so long begins
/// with the first again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const GOOD_RUN: Duration = Duration::from_secs(600);

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
    restart: RestartOption,
    state: Mutex<State>,
}

struct State {
    child: Option<Child>,
    started: Instant,
    /// When it is started again, if it has ended and is to be.
    again_at: Option<Instant>,
    pause: Duration,
}

impl VllmProcess {
    pub(super) fn new(command: VllmCommand, restart: RestartOption) -> Self {
        let state = State { child: None, started: Instant::now(), again_at: None, pause: FIRST_PAUSE };
        Self { command, restart, state: Mutex::new(state) }
    }

    /// Starts it; its engine cores say hello at this port. It ends with the thread that calls this, even when that is
    /// killed. Fails with what to tell the operator.
    pub(super) fn start(&self, host: &str, port: u16) -> Result<(), String> {
        let VllmCommand { program, arguments, engine_count } = &self.command;
        let cannot = |why: String| {
            format!(
                "{} cannot be started ({why}); install vLLM (pip install vllm), or name the program in \
                 --vllm-command",
                program.display()
            )
        };
        if !is_there(program) {
            return Err(cannot("there is no such program".to_owned()));
        }
        let count = engine_count.to_string();
        let mut command = tied(program);
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
        let mut child = command.spawn().map_err(|error| cannot(error.to_string()))?;
        if let Some(output) = child.stdout.take() {
            pass_on_output(output);
        }
        if let Some(output) = child.stderr.take() {
            pass_on_output(output);
        }
        let mut state = self.state.lock();
        (state.child, state.started) = (Some(child), Instant::now());
        Ok(())
    }

    /// That it has ended of itself, in words.
    pub(super) fn has_ended(&self) -> Option<String> {
        let status = self.state.lock().take_ended()?;
        Some(format!("vLLM has ended ({status}) before it was ready; what it wrote above says why"))
    }

    /// Once it was ready: says when it has ended, and starts it again when it is time to.
    pub(super) fn look_after(&self, host: &str, port: u16) -> Option<String> {
        let now = Instant::now();
        let ended = self.ended(now);
        let is_time = || self.state.lock().again_at.take_if(|at| *at <= now).is_some();
        if ended.is_none()
            && is_time()
            && let Err(problem) = self.start(host, port)
        {
            error!("{problem}");
            self.state.lock().plan(now);
        }
        ended
    }

    fn ended(&self, now: Instant) -> Option<String> {
        let mut state = self.state.lock();
        let status = state.take_ended()?;
        let what = match self.restart {
            RestartOption::Never => "it is not started again (--vllm-restart)".to_owned(),
            RestartOption::OnFailure => format!("it is started again in {:?}", state.plan(now)),
        };
        Some(format!("vLLM has ended ({status}); what it wrote above says why; {what}"))
    }

    /// Ends it, and waits until it has ended.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.again_at = None;
        let Some(mut child) = state.child.take() else { return };
        drop(state);
        if !has_ended(&child) {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
        for _ in 0..END_POLLS {
            if has_ended(&child) {
                break;
            }
            std::thread::sleep(END_POLL);
        }
        if !has_ended(&child) {
            warn!("vLLM does not end and is killed");
        }
        kill_group(&child);
        let _ = child.wait();
    }
}

impl State {
    /// How it has ended, in words, if it has. What it has started does not go on without it, and would be in the way of
    /// another one.
    fn take_ended(&mut self) -> Option<String> {
        let mut child = self.child.take_if(|child| has_ended(child))?;
        kill_group(&child);
        Some(child.wait().map_or_else(|error| error.to_string(), |status| status.to_string()))
    }

    /// Plans the next start; returns the pause before it.
    fn plan(&mut self, now: Instant) -> Duration {
        if now - self.started > GOOD_RUN {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.again_at = Some(now + pause);
        self.pause = (2 * pause).min(LONGEST_PAUSE);
        pause
    }
}

/// Whether it has ended. It is not waited for yet, so its number stays its own.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(Pid::from_child(child)), options), Ok(None))
}

/// Kills it, and what it has started and left: it leads a group of its own, whose number nobody else has before it has been
/// waited for.
fn kill_group(leader: &Child) {
    let _ = kill_process_group(Pid::from_child(leader), Signal::KILL);
}

/// Whether a program exists, by path or in the `PATH`.
fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let now = Instant::now();
        let mut state = State { child: None, started: now, again_at: None, pause: FIRST_PAUSE };
        let pauses: Vec<u64> = (0..8).map(|_| state.plan(now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let later = now + GOOD_RUN + FIRST_PAUSE;
        assert_eq!(state.plan(later), FIRST_PAUSE);
        assert_eq!(state.again_at, Some(later + FIRST_PAUSE));
    }

    #[test]
    fn programs_are_found_by_path_and_by_name() {
        assert!(is_there(Path::new("sh")) && is_there(Path::new("/bin/sh")));
        assert!(!is_there(Path::new("no-such-program-anywhere")) && !is_there(Path::new("./sh")));
    }
}
