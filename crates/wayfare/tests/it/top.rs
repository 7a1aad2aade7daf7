//! The terminal view in a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_testkit::wait_until;

use crate::live::{send_with_key, start};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs its arguments in a terminal of 130 columns and 24 lines, whose keyboard is standard input and whose screen
/// is standard output.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[1], sys.argv[1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 130, 0, 0))
while True:
    ready, _, _ = select.select([terminal, 0], [], [])
    if 0 in ready:
        os.write(terminal, os.read(0, 4096))
    if terminal in ready:
        try:
            shown = os.read(terminal, 4096)
        except OSError:
            break
        if not shown:
            break
        os.write(1, shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"#;

fn without_keys(mut command: Command) -> Command {
    command.env_remove("WAYFARE_API_KEY").env_remove("VLLM_API_KEY").env("TERM", "xterm-256color");
    command
}

/// What `wayfare top` says that cannot begin.
fn refusal(arguments: &[&str]) -> String {
    let mut command = without_keys(Command::new(env!("CARGO_BIN_EXE_wayfare")));
    let output = command.arg("top").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_terminal_view_runs_in_a_terminal() {
    let server = start(&["--api-key", "secret"]);
    let address = server.socket_address();
    let log = refusal(&[&server.address, "--api-key", "wrong"]);
    assert!(log.contains("answers 401"), "{log}");
    let log = refusal(&["127.0.0.1:9"]);
    assert!(log.contains("does not answer"), "{log}");

    let mut view = without_keys(Command::new("python3"))
        .args(["-c", TERMINAL, env!("CARGO_BIN_EXE_wayfare"), "top", &server.address, "--interval", "0.2"])
        .env("WAYFARE_API_KEY", "secret")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = view.stdin.take().unwrap();
    let screen = Arc::new(Mutex::new(String::new()));
    let (shown, mut output) = (Arc::clone(&screen), view.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            shown.lock().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    let sees = |text: &str| wait_until(PATIENCE, || screen.lock().contains(text));
    // Only cells that change are drawn, so that words are all that can be looked for.
    sees("newest");
    let request = send_with_key(address, "watched", 300, "secret");
    sees("cmpl-watched");
    sees("decode");
    keyboard.write_all(b"ss").unwrap();
    sees("time");
    keyboard.write_all(b"\r").unwrap();
    sees("trace");
    drop(request);
    sees("ended");
    keyboard.write_all(b"q").unwrap();
    let status = view.wait().unwrap();
    assert!(status.success(), "{status}");
    reader.join().unwrap();
    assert!(screen.lock().contains("\u{1b}[?1049l"), "the terminal is as it was before");
}
