//! Unix sockets: made without taking anything that somebody uses, and removed at the end.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::net::{UnixListener, UnixSocket};

/// The file of a socket that is ours. Removed when dropped, which must be after its listener: unless somebody else
/// listens there by then.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if leftover(&self.0).is_ok_and(|is_leftover| is_leftover)
            && let Err(error) = fs::remove_file(&self.0)
        {
            tracing::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// Whether a socket can be made at `path`: nothing is there, or a socket that nobody listens on any more.
///
/// # Errors
/// When it cannot.
pub(super) fn check(path: &Path) -> Result<()> {
    leftover(path).map(drop)
}

/// Makes a socket and listens on it. Who may connect is decided by the permissions of the folder and the umask.
///
/// # Errors
/// When something is in its place, or it cannot be made there.
pub(super) fn listen(path: &Path, backlog: u32) -> Result<(UnixListener, SocketFile)> {
    if leftover(path)? {
        fs::remove_file(path).with_context(|| format!("cannot remove the old socket {}", path.display()))?;
    }
    let cannot = || format!("cannot make the socket {} (--uds)", path.display());
    let socket = UnixSocket::new_stream().with_context(cannot)?;
    socket.bind(path).with_context(cannot)?;
    let file = SocketFile(path.to_owned());
    let listener = socket.listen(backlog).with_context(cannot)?;
    Ok((listener, file))
}

/// Whether a socket without a listener is at `path`, left by a server that was killed.
fn leftover(path: &Path) -> Result<bool> {
    let place = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if folder.is_some_and(|folder| !folder.is_dir()) {
                bail!("the folder of the socket {place} (--uds) does not exist");
            }
            return Ok(false);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot look at {place} (--uds)")),
        Ok(file) if !file.file_type().is_socket() => {
            bail!("{place} (--uds) exists and is not a socket; remove it, or choose another path")
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot tell whether {place} (--uds) is in use")),
        Ok(_) => bail!("{place} (--uds) is in use; stop what listens there, or choose another path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_use_is_left_alone_and_what_is_left_over_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        check(&path).unwrap();
        let (listener, file) = listen(&path, 1).unwrap();
        let error = listen(&path, 1).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        drop(listener);
        // Nobody listens any more, but the file is there, as after a kill.
        let (listener, newer) = listen(&path, 1).unwrap();
        drop(file);
        assert!(path.exists(), "the old owner does not remove what is no longer its own");
        drop(listener);
        drop(newer);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_sockets_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        for error in [check(&path).unwrap_err(), listen(&path, 1).unwrap_err()] {
            assert!(error.to_string().contains("not a socket"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let error = check(&folder.path().join("no/such/socket")).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        let long = folder.path().join("x".repeat(200));
        assert!(listen(&long, 1).unwrap_err().to_string().contains("--uds"));
    }
}
