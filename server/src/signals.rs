//! Stopping: the first SIGTERM or SIGINT asks for an orderly stop, the second ends the process at once, and so does an orderly
//! stop that takes too long. Nothing is lost by that, because nothing is acknowledged before it is safe.
//!
//! Signals have a thread and a runtime of their own: they must be heard when everything else hangs.

use std::io;
use std::process;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// An orderly stop takes no longer; those who sent SIGTERM expect the end within 5 s.
pub const STOP_TIME_MAX: Duration = Duration::from_millis(4500);

/// Says when to stop. All clones say the same.
#[derive(Debug, Clone)]
pub struct Stop {
    requested: watch::Receiver<bool>,
}

/// Asks for a stop.
#[derive(Debug)]
pub struct StopSender(watch::Sender<bool>);

impl Stop {
    pub fn new() -> (StopSender, Self) {
        let (sender, requested) = watch::channel(false);
        (StopSender(sender), Self { requested })
    }

    /// Asked for by SIGTERM or SIGINT. To be called once per process.
    pub fn on_signals() -> io::Result<Self> {
        let (sender, stop) = Self::new();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        // Before anything else is started: a signal from now on is an orderly stop.
        let mut signals = {
            let _inside = runtime.enter();
            Signals::new()?
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                let first = signals.next().await;
                tracing::info!("{}: stopping; once more to stop at once", first.name);
                sender.request();
                tokio::select! {
                    second = signals.next() => {
                        tracing::warn!("{} again: stopped at once", second.name);
                        process::exit(second.exit_code);
                    }
                    () = tokio::time::sleep(STOP_TIME_MAX) => {
                        tracing::error!("not stopped {STOP_TIME_MAX:?} after {}: stopped at once", first.name);
                        process::exit(first.exit_code);
                    }
                }
            });
        })?;
        Ok(stop)
    }

    /// Returns when a stop is asked for, or at once if it was.
    pub async fn requested(&mut self) {
        // Nobody left who could ask means that the process is ending.
        let _ = self.requested.wait_for(|requested| *requested).await;
    }

    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }
}

impl StopSender {
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

struct Received {
    name: &'static str,
    /// What a shell would report of a process that the signal ended.
    exit_code: i32,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Received {
        let of = |name, kind: SignalKind| Received { name, exit_code: 128 + kind.as_raw_value() };
        tokio::select! {
            _ = self.terminate.recv() => of("SIGTERM", SignalKind::terminate()),
            _ = self.interrupt.recv() => of("SIGINT", SignalKind::interrupt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_told() {
        let (sender, stop) = Stop::new();
        assert!(!stop.is_requested());
        let mut waiting = stop.clone();
        let waiting = tokio::spawn(async move { waiting.requested().await });
        sender.request();
        waiting.await.unwrap();
        let mut late = stop.clone();
        late.requested().await;
        assert!(late.is_requested());
    }
}
