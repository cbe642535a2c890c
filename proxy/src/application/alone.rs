//! Whether this process is alone in its pid namespace, as /proc tells.
//!
//! For pods with `shareProcessNamespace`: when the application's last process has ended, so may the
//! proxy. Zombies are no processes any more, and the pause container's process 1 is nobody's. A pid
//! namespace that never had another process says nothing: the application may still be on its way.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How often is looked. Two small reads each time: what they cost in a day is less than a second.
const INTERVAL: Duration = Duration::from_millis(200);

/// The same until the application was seen: one that fails at once must not be missed.
const INTERVAL_FIRST: Duration = Duration::from_millis(20);

/// Where the kernel shows processes.
pub const PROC: &str = "/proc";

/// Resolves when there was another process, and there is none any more.
pub async fn alone(root: &Path) {
    let own = std::process::id();
    let (mut known, mut told) = (None, false);
    loop {
        match other(root, own, known) {
            Ok(Some(id)) => {
                if known.is_none() {
                    tracing::info!(process = id, "the application's processes are watched");
                }
                known = Some(id);
            }
            Ok(None) if known.is_some() => return,
            Ok(None) => told = false,
            // Better never to leave than to leave an application alone.
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, "the processes of this pid namespace cannot be listed");
            }
            Err(_) => {}
        }
        tokio::time::sleep(if known.is_some() { INTERVAL } else { INTERVAL_FIRST }).await;
    }
}

/// Another process that lives: `known` if it still does, else any.
fn other(root: &Path, own: u32, known: Option<u32>) -> io::Result<Option<u32>> {
    if let Some(id) = known
        && counts(root, id)?
    {
        return Ok(Some(id));
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if id != own && counts(root, id)? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Whether a process lives and is anybody's.
fn counts(root: &Path, id: u32) -> io::Result<bool> {
    let text = match fs::read(root.join(id.to_string()).join("stat")) {
        // A name is cut at 15 bytes, in the middle of a letter if need be.
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        // Gone between listing and reading is gone; anything else says nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => return Ok(false),
        Err(error) => return Err(error),
    };
    // `ID (NAME) STATE …`; the name may hold anything, parentheses included.
    let Some((before, after)) = text.rsplit_once(") ") else { return Ok(false) };
    let name = before.split_once('(').map_or("", |(_, name)| name);
    let dead = after.starts_with(['Z', 'X']);
    let pause = id == 1 && name == "pause";
    Ok(!dead && !pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, id: u32, stat: &str) {
        fs::create_dir_all(root.join(id.to_string())).unwrap();
        fs::write(root.join(id.to_string()).join("stat"), stat).unwrap();
    }

    #[test]
    fn pause_zombies_and_this_process_are_not_the_application() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        put(root, 1, "1 (pause) S 0 1 1");
        put(root, 7, "7 (weft-proxy) S 0 7 7");
        put(root, 8, "8 (job) Z 0 8 8");
        fs::create_dir(root.join("sys")).unwrap();
        assert_eq!(other(root, 7, None).unwrap(), None);
        put(root, 9, "9 (a) Z) S 0 9 9");
        assert_eq!(other(root, 7, None).unwrap(), Some(9), "a name may look like a state");
        put(root, 9, "9 (pause) S 0 9 9");
        assert_eq!(other(root, 7, Some(9)).unwrap(), Some(9), "only process 1 is the pause container's");
        put(root, 10, "10 (helper) R 9 9 9");
        fs::remove_dir_all(root.join("9")).unwrap();
        assert_eq!(other(root, 7, Some(9)).unwrap(), Some(10), "another one takes its place");
    }

    #[test]
    fn a_process_whose_name_cannot_be_read_is_there_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("9")).unwrap();
        // A name of two-byte letters, cut at 15 bytes.
        fs::write(root.join("9/stat"), [b"9 (\xc3\xa9\xc3\xa9\xc3", &b") S 0 9 9"[..]].concat()).unwrap();
        assert_eq!(other(root, 7, None).unwrap(), Some(9));
        assert_eq!(other(root, 7, Some(9)).unwrap(), Some(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_cannot_be_looked_at_is_not_taken_for_gone() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        put(&root, 4_194_305, "4194305 (job) S 1 1 1");
        let started = tokio::time::Instant::now();
        let gone = async {
            alone(&root).await;
            started.elapsed()
        };
        let watched = async {
            tokio::join!(gone, async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                // Nothing can be read from a directory, whoever asks.
                fs::remove_file(root.join("4194305/stat")).unwrap();
                fs::create_dir(root.join("4194305/stat")).unwrap();
                assert!(other(&root, 7, Some(4_194_305)).is_err());
                tokio::time::sleep(Duration::from_secs(60)).await;
                fs::remove_dir_all(root.join("4194305")).unwrap();
            })
        };
        let (at, ()) = tokio::time::timeout(Duration::from_secs(70), watched).await.expect("it notices");
        assert!(at >= Duration::from_secs(65), "taken for gone after {at:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_not_gone_before_somebody_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let waiting = tokio::time::timeout(Duration::from_secs(60), alone(&root)).await;
        assert!(waiting.is_err(), "it never had company");
        put(&root, 4_194_305, "4194305 (job) S 1 1 1");
        let watched = async {
            tokio::join!(alone(&root), async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                fs::remove_dir_all(root.join("4194305")).unwrap();
            })
        };
        tokio::time::timeout(Duration::from_secs(6), watched).await.expect("it notices");
    }
}
