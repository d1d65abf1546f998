//! A node's disk that is slow, or does not answer: the threads of its process that use files are held, and the others are not. To the
//! process it looks as if system calls took that long. A debugger holds threads in the same way, so it takes no more rights than the kernel
//! gives to a parent over its children (ptrace); some containers forbid it.
//!
//! Threads that begin meanwhile are not held, until the next turn of a slow disk. That is what is left out: reads, which have threads of
//! their own that come and go, are held only if they run when it begins.

use std::fmt;
use std::io;
use std::time::Duration;

/// How a disk is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Hung,
    /// In turns, it does not answer, and does.
    Slow {
        held: Duration,
        free: Duration,
    },
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung => f.write_str("does not answer"),
            Self::Slow { held, free } => {
                write!(f, "does not answer for {} ms after every {} ms", held.as_millis(), free.as_millis())
            }
        }
    }
}

/// Names of threads that use files (see docs/ARCHITECTURE.md), by what they begin with.
#[cfg(target_os = "linux")]
const DISK_THREADS: [&str; 6] = ["commit-", "flush-", "upkeep-", "read-", "rocksdb:", "metadata-log"];

/// A disk in trouble, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its end ends the trouble.
    _until: std::sync::mpsc::Sender<()>,
}

#[cfg(not(target_os = "linux"))]
impl Held {
    pub(crate) fn is_possible() -> Result<(), String> {
        Err("threads can be held on Linux only".to_owned())
    }

    pub(crate) fn begin(_: u32, _: Pace) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::process::{Command, Stdio};
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

    use super::*;

    impl Held {
        /// Whether the system lets it: tried with a process that does nothing.
        pub(crate) fn is_possible() -> Result<(), String> {
            let mut idle = Command::new("sleep").arg("10").stdin(Stdio::null()).spawn();
            let idle = idle.as_mut().map_err(|error| format!("sleep: {error}"))?;
            let held = Thread::hold(idle.id().cast_signed());
            let outcome = held.map(Thread::let_go).map_err(|error| format!("ptrace: {error}"));
            let _ = idle.kill();
            let _ = idle.wait();
            outcome
        }

        /// Troubles the disk of a process until dropped, or the process ends.
        pub(crate) fn begin(process: u32, pace: Pace) -> io::Result<Self> {
            let (until, over) = channel();
            // One thread for all of it: only who began to hold a thread may let it go.
            std::thread::Builder::new().name("held-disk".to_owned()).spawn(move || keep(process, pace, &over))?;
            Ok(Self { _until: until })
        }
    }

    fn keep(process: u32, pace: Pace, over: &Receiver<()>) {
        let (held_for, free_for) = match pace {
            Pace::Hung => (Duration::MAX, Duration::ZERO),
            Pace::Slow { held, free } => (held, free),
        };
        loop {
            // Threads end whenever they like.
            let threads = disk_threads(process).into_iter().filter_map(|thread| Thread::hold(thread).ok());
            let threads: Vec<_> = threads.collect();
            let is_over = threads.is_empty() || ends_within(over, held_for);
            threads.into_iter().for_each(Thread::let_go);
            if is_over || ends_within(over, free_for) {
                return;
            }
        }
    }

    fn ends_within(over: &Receiver<()>, time: Duration) -> bool {
        over.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }

    /// The threads of a process that use files; none if it has ended.
    pub(super) fn disk_threads(process: u32) -> Vec<i32> {
        let tasks = format!("/proc/{process}/task");
        let uses_files = |thread: &i32| {
            let name = std::fs::read_to_string(format!("{tasks}/{thread}/comm")).unwrap_or_default();
            DISK_THREADS.iter().any(|begin| name.starts_with(begin))
        };
        let threads = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
        threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(uses_files).collect()
    }

    /// A thread that is held.
    struct Thread(i32);

    impl Thread {
        fn hold(thread: i32) -> io::Result<Self> {
            ptrace(libc::PTRACE_SEIZE, thread)?;
            // What is seized is let go in any case.
            let held = Self(thread);
            match ptrace(libc::PTRACE_INTERRUPT, thread) {
                Ok(()) => Ok(held),
                Err(error) => {
                    held.let_go();
                    Err(error)
                }
            }
        }

        fn let_go(self) {
            let mut status = 0;
            loop {
                // SAFETY: `status` is ours. It returns when the thread stands still, which it was told to, or has ended.
                let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
                if waited >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    break;
                }
            }
            // It may have ended.
            let _ = ptrace(libc::PTRACE_DETACH, self.0);
        }
    }

    fn ptrace(request: libc::c_uint, thread: i32) -> io::Result<()> {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: none of these requests reads or writes memory of this process.
        match unsafe { libc::ptrace(request, thread, nothing, nothing) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::linux::disk_threads;
    use super::*;

    /// Ends with the test.
    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn state(thread: i32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
    }

    fn becomes(thread: i32, is_wanted: impl Fn(char) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_wanted(state(thread)) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn threads_that_use_files_are_held_and_let_go() {
        if let Err(why) = Held::is_possible() {
            return eprintln!("skipped: {why}");
        }
        // A shell whose only thread passes for one that commits.
        let script = "printf commit-n1s0 > /proc/self/comm; while :; do :; done";
        let shell = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn();
        let shell = Ended(shell.expect("a shell"));
        let (process, thread) = (shell.0.id(), shell.0.id().cast_signed());
        let deadline = Instant::now() + Duration::from_secs(5);
        while disk_threads(process) != [thread] {
            assert!(Instant::now() < deadline, "{:?}", disk_threads(process));
            std::thread::sleep(Duration::from_millis(1));
        }
        let held = Held::begin(process, Pace::Hung).expect("a thread");
        assert!(becomes(thread, |state| state == 't'), "{}", state(thread));
        drop(held);
        assert!(becomes(thread, |state| state == 'R'), "{}", state(thread));
        let pace = Pace::Slow { held: Duration::from_millis(20), free: Duration::from_millis(20) };
        let held = Held::begin(process, pace).expect("a thread");
        for _ in 0..3 {
            assert!(becomes(thread, |state| state == 't'), "{}", state(thread));
            assert!(becomes(thread, |state| state == 'R'), "{}", state(thread));
        }
        drop(held);
    }
}
