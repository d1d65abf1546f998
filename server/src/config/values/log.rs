//! Which log lines are written, and how.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Human, Self::Json].into_iter().find(|format| format.to_string() == text).ok_or(())
    }
}

/// Which log lines are written, in the syntax of tracing's `EnvFilter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        // `EnvFilter` takes a bare word that is no level for a module and would silence all others: `inof` is a typo.
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        let is_level = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part.trim()));
        let sound = |part: &str| part.contains(['=', '[']) || is_level(part);
        let sound = text.split(',').all(sound) && EnvFilter::try_new(text).is_ok();
        if sound { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::tests::from_text;

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for good in ["info", "WARN", "off", "info,dlog_sequencer=debug", "dlog[span]=trace,error"] {
            assert!(from_text::<LogFilter>(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "info,dlog_sequencer", "dlog=loud"] {
            assert!(from_text::<LogFilter>(bad).is_err(), "{bad}");
        }
    }
}
