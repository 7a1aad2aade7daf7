//! Sockets that whoever started this program has opened for it, and hands over by number.

use std::fs;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;

use anyhow::{Context as _, Result, bail};
use socket2::Socket;

/// Standard input, output and error are nobody's to give.
const FIRST: RawFd = 3;

/// Takes possession of sockets, each with the option that names it. To be called before the program opens anything itself:
/// until then, all that is open was handed over.
///
/// # Errors
/// When one of them is not an open socket, or two are the same.
pub(crate) fn take<const N: usize>(given: [(&str, RawFd); N]) -> Result<[Socket; N]> {
    for (index, (option, number)) in given.iter().enumerate() {
        let is_socket =
            || fs::metadata(format!("/proc/self/fd/{number}")).is_ok_and(|it| it.file_type().is_socket());
        if *number < FIRST || !is_socket() {
            bail!("{option} {number} is not an open socket; this command is for vLLM to start");
        }
        if given[..index].iter().any(|(_, other)| other == number) {
            bail!("{option} {number} is also another socket");
        }
    }
    let sockets = given.map(|(_, number)| adopt(number));
    for (socket, (option, _)) in sockets.iter().zip(given) {
        // Nothing that is started from here needs them.
        socket.set_cloexec(true).with_context(|| format!("{option} cannot be set up"))?;
    }
    Ok(sockets)
}

#[expect(unsafe_code, reason = "there is no safe way to a descriptor that comes as a number")]
fn adopt(number: RawFd) -> Socket {
    // SAFETY: it is open, which was looked at just before; whoever started us has left it to us; and nothing else here
    // has it, because this runs before anything is opened, once for each number.
    unsafe { OwnedFd::from_raw_fd(number) }.into()
}
