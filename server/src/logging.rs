//! Log lines: to standard error, for people or for programs.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogFilter, LogFormat};

/// Libraries whose ordinary doings are no news to an operator; openraft would complain of a voter that is away with every heartbeat,
/// which the node says once. A filter that names one of them overrides this.
const QUIET: &str = "openraft=off,quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn,hyper=warn";

/// Sends what this process logs to standard error, from now on. To be called once.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<(), TryInitError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match format {
        LogFormat::Human => human(filter, colours, io::stderr).try_init(),
        LogFormat::Json => json(filter, io::stderr).try_init(),
    }
}

fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::new(format!("{QUIET},{filter}"))
}

/// `2026-01-31T12:00:00.000000Z  INFO dlog: ready listen=…`, times in UTC.
fn human<W>(filter: &LogFilter, colours: bool, writer: W) -> impl SubscriberInitExt + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .compact()
        .with_ansi(colours)
        .with_env_filter(env_filter(filter))
        .with_writer(writer)
        .finish()
}

/// An object per line: `timestamp`, `level`, `target`, `message` and the event's own fields.
fn json<W>(filter: &LogFilter, writer: W) -> impl SubscriberInitExt + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false);
    lines.with_env_filter(env_filter(filter)).with_writer(writer).finish()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn of<S: SubscriberInitExt>(make: impl FnOnce(Self) -> S) -> Vec<String> {
            let lines = Self::default();
            let guard = make(lines.clone()).set_default();
            tracing::info!(port = 9092, "ready");
            tracing::debug!("too much");
            tracing::info!(target: "quinn::connection", "chatter");
            tracing::warn!(target: "quinn::connection", "trouble");
            tracing::error!(target: "openraft::engine", "the same with every heartbeat");
            drop(guard);
            let bytes = std::mem::take(&mut *lines.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn people_get_a_line_per_event_without_the_libraries_chatter() {
        let lines = Lines::of(|lines| human(&LogFilter::default(), false, move || lines.clone()));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("Z  INFO dlog::logging::tests: ready port=9092"), "{lines:?}");
        assert!(lines[1].contains("WARN quinn::connection: trouble"), "{lines:?}");
    }

    #[test]
    fn programs_get_an_object_per_event() {
        let lines = Lines::of(|lines| json(&LogFilter::default(), move || lines.clone()));
        let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        let found = ["level", "message", "target"].map(|key| event[key].as_str().unwrap());
        assert_eq!((found, &event["port"]), (["INFO", "ready", "dlog::logging::tests"], &9092.into()));
    }

    #[test]
    fn a_named_library_is_heard() {
        let filter = "warn,quinn=info".parse().unwrap();
        let lines = Lines::of(|lines| human(&filter, false, move || lines.clone()));
        assert!(lines.len() == 2 && lines[0].contains("chatter"), "{lines:?}");
    }
}
