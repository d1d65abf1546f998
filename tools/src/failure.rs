//! How a command ends.

use std::fmt;
use std::io;
use std::process::ExitCode;

use dlog_client::{ClientError, OpenError};
use dlog_proto::wire::ErrorCode;

use crate::output::tell;

const FAILED: u8 = 1;
/// The same as clap's.
const USAGE: u8 = 2;
/// A reader was told that records are lost.
pub(crate) const DATA_LOSS: u8 = 3;

/// How a command ends that did what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Records that should have been read are lost.
    DataLoss,
}

/// Why a command did not do what it was asked for, and what can be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Whoever reads our output has seen enough: no reason to complain.
    OutputClosed,
    Because {
        message: String,
        hint: Option<String>,
        code: u8,
    },
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Because { message: message.into(), hint: None, code: FAILED }
    }

    /// The command line asks for something that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Because { message: message.into(), hint: None, code: USAGE }
    }

    #[must_use]
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Because { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// Says what was being done when it happened.
    #[must_use]
    pub(crate) fn while_at(mut self, what: impl fmt::Display) -> Self {
        if let Self::Because { message, .. } = &mut self {
            *message = format!("{what}: {message}");
        }
        self
    }

    /// Standard output does not take what is written.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::new(format!("cannot write to standard output: {error}")),
        }
    }

    /// Tells the user, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Because { code, .. } => {
                tell(self);
                ExitCode::from(*code)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutputClosed => f.write_str("error: standard output was closed"),
            Self::Because { message, hint: None, .. } => write!(f, "error: {message}"),
            Self::Because { message, hint: Some(hint), .. } => write!(f, "error: {message}\nhint: {hint}"),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Client(error) => error.into(),
            other => Self::new(other.to_string()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error.to_string());
        match hint_for(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

const START: &str = "is a node running there? Start one with `dlog`, or name others with --server HOST:PORT,HOST:PORT";
const LOOK: &str = "`dlog cluster status` shows which nodes are up";

fn hint_for(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::NoServer { .. } => Some(START),
        ClientError::TimedOut { .. } | ClientError::Lost(_) => Some(LOOK),
        ClientError::UnknownLog(_) => Some("`dlog log list` shows the logs that there are"),
        ClientError::Failed(failed) => match failed.code {
            ErrorCode::Exists => Some("choose another name; `dlog log list` shows the logs that there are"),
            ErrorCode::NotFound => Some("`dlog log list` shows the logs that there are"),
            ErrorCode::NotEnoughNodes | ErrorCode::Unavailable => Some(LOOK),
            ErrorCode::Overloaded => Some("try again in a moment"),
            ErrorCode::Unsupported => Some("the server is of another version than this command"),
            ErrorCode::Internal => Some("the log of the server says more"),
            ErrorCode::Invalid | ErrorCode::Stale => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dlog_proto::wire::Failed;

    use super::*;

    #[test]
    fn errors_say_what_happened_and_what_to_do() {
        let tried = vec![("localhost:9092".parse().unwrap(), "no answer".to_owned())];
        let text = Failure::from(ClientError::NoServer { tried }).to_string();
        assert!(text.starts_with("error: no server answered: localhost:9092: no answer\nhint: is a node"), "{text}");
        let exists = ClientError::Failed(Failed::new(ErrorCode::Exists, "log a/b exists already"));
        let text = Failure::from(exists).while_at("a/b").to_string();
        assert!(text.starts_with("error: a/b: log a/b exists already\nhint: choose another name"), "{text}");
        let timeout = ClientError::TimedOut { what: "the question", after: Duration::from_secs(1), last_error: None };
        assert!(Failure::from(timeout).to_string().contains("1.0 s\nhint: `dlog cluster status`"));
        assert_eq!(Failure::new("x").to_string(), "error: x");
    }

    #[test]
    fn a_reader_that_leaves_is_no_error() {
        assert_eq!(Failure::output(&io::ErrorKind::BrokenPipe.into()), Failure::OutputClosed);
        assert_ne!(Failure::output(&io::ErrorKind::StorageFull.into()), Failure::OutputClosed);
    }
}
