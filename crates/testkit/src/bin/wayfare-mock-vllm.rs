//! A process that plays an engine core of vLLM and computes nothing. A number on a line of standard input is how long a
//! step takes, in µs; the end of the input is its end.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "whoever has started it wants to know why it has ended")]

use std::io::BufRead as _;
use std::process::ExitCode;

use wayfare_testkit::mock_vllm::{MockVllmOptions, Pace, serve};

/// More than any front is asked to have in flight.
const MAX_NUM_SEQS: u32 = 4096;
const MAX_MODEL_LEN: u32 = 8192;

fn main() -> ExitCode {
    let Some(handshake) = std::env::args().nth(1) else {
        eprintln!("usage: wayfare-mock-vllm tcp://HOST:PORT, where a front waits for engine cores");
        return ExitCode::FAILURE;
    };
    let pace = Pace::default();
    let told = pace.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.trim().parse() {
                Ok(step_us) => told.set_us(step_us),
                Err(_) => eprintln!("wayfare-mock-vllm: {line:?} is not a number of µs"),
            }
        }
        std::process::exit(0);
    });
    let options = MockVllmOptions {
        handshake,
        rank: 0,
        ranks: 1,
        max_model_len: MAX_MODEL_LEN,
        max_num_seqs: MAX_NUM_SEQS,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system gives a runtime what it needs");
    match runtime.block_on(serve(options, pace)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wayfare-mock-vllm: {error}");
            ExitCode::FAILURE
        }
    }
}
