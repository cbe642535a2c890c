//! The unix socket for what changes this proxy: a path instead of a port, and the kernel says who asks.
//!
//! Whatever runs in the pod reaches loopback, and many a program can be made to send it a request; so
//! nothing that ends or changes the proxy is on TCP. Here only the proxy's own user and root are
//! answered, whatever the socket's permissions say.

use super::responder::{Answer, Listener};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// The socket's name in the state directory.
pub const FILE: &str = "admin.sock";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket that is listened on; its file goes with it.
#[derive(Debug)]
pub struct Bound {
    listener: StdListener,
    file: SocketFile,
}

/// The file of a socket, removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

/// The same inside a runtime.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    _file: SocketFile,
}

/// Listens at `path`, in the place of a socket that a killed process left there.
pub fn bind(path: &Path) -> io::Result<Bound> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(facts) if !facts.file_type().is_socket() => {
            return Err(io::Error::other("there is something else than a socket"));
        }
        Ok(_) => match StdStream::connect(path) {
            Ok(_) => return Err(io::Error::other("another process listens there")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
    }
    let socket = private()?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Bound { listener: socket.into(), file })
}

/// A socket that has no file yet, for its user alone. The file gets the socket's mode, less the umask, and is
/// private from its first moment on. A changed umask would be every thread's.
fn private() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(socket)
}

// === impl Bound ===

impl Bound {
    /// Inside a runtime.
    pub fn into_listener(self) -> io::Result<AdminSocket> {
        Ok(AdminSocket { listener: UnixListener::from_std(self.listener)?, _file: self.file })
    }
}

// === impl AdminSocket ===

impl Listener for AdminSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<Answer>)> {
        let (stream, _) = self.listener.accept().await?;
        let user = stream.peer_cred()?.uid();
        if may_ask(user) {
            return Ok((stream, None));
        }
        tracing::warn!(user, "somebody else asks on the admin socket");
        Ok((stream, Some(Answer::of(403, "only this proxy's user and root may ask here\n".to_owned()))))
    }
}

fn may_ask(user: u32) -> bool {
    user == 0 || user == nix::unistd::geteuid().as_raw()
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::stat::{fstat, umask};
    use std::os::unix::fs::PermissionsExt;

    fn rights(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_root_and_the_own_user_may_ask() {
        let own = nix::unistd::geteuid().as_raw();
        assert!(may_ask(0) && may_ask(own));
        assert!(!may_ask(own.wrapping_add(1).max(1)));
    }

    #[test]
    fn what_a_killed_process_left_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "a closed socket leaves its file");
        let held = bind(&path).unwrap();
        assert_eq!(rights(&path), 0o600);
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(held);
        assert!(!path.exists());
        fs::write(&path, "no socket").unwrap();
        assert!(bind(&path).unwrap_err().to_string().contains("something else"));
        assert_eq!(fs::read(&path).unwrap(), b"no socket", "and it is left alone");
    }

    #[test]
    fn the_file_is_private_before_it_has_a_name_whatever_the_umask() {
        assert_eq!(fstat(private().unwrap()).unwrap().st_mode & 0o777, 0o600);
        let directory = tempfile::tempdir().unwrap();
        let in_a_thread = || {
            let (own, open) = (directory.path().join(FILE), directory.path().join("open"));
            // A umask of this thread's own, since others make files meanwhile. A sandbox may forbid that.
            let permissive = unshare(CloneFlags::CLONE_FS).map(|()| umask(Mode::empty())).is_ok();
            let _held = (bind(&own).unwrap(), StdListener::bind(&open).unwrap());
            assert_eq!(rights(&own), 0o600);
            if permissive {
                assert_eq!(rights(&open), 0o777);
                assert_eq!(umask(Mode::empty()), Mode::empty(), "it is left as it is");
            }
        };
        std::thread::scope(|scope| scope.spawn(in_a_thread).join()).unwrap();
    }
}
