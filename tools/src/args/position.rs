//! A place in a log as people name it: `oldest`, `newest`, `e3n42`, `1000`, `2026-01-31T12:00:00Z`,
//! `2026-01-31`, `-5m`, `2h ago`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dlog_proto::clock::now_ms;
use dlog_proto::{LogOffset, Lsn, ParseError, TimestampMs};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{not, parse_duration};
use crate::output::timestamp::timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The first record that is kept.
    Oldest,
    /// After the last record that can be read.
    Newest,
    Lsn(Lsn),
    Offset(LogOffset),
    /// The first record of that time or later.
    Time(When),
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(TimestampMs),
    /// So long before now.
    Ago(Duration),
}

impl When {
    pub fn resolve(self, now: TimestampMs) -> TimestampMs {
        match self {
            Self::At(timestamp) => timestamp,
            Self::Ago(ago) => now.saturating_sub(TimestampMs::try_from(ago.as_millis()).unwrap_or(TimestampMs::MAX)),
        }
    }

    fn parse(s: &str) -> Option<Self> {
        if let Some(ago) = s.strip_prefix('-').or_else(|| s.strip_suffix("ago").map(str::trim_end)) {
            return parse_duration(ago).ok().map(Self::Ago);
        }
        let parse = |s: &str| OffsetDateTime::parse(s, &Rfc3339).ok();
        // A date alone is its midnight in UTC.
        let at = parse(s).or_else(|| parse(&format!("{s}T00:00:00Z")))?;
        TimestampMs::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Self::At)
    }
}

impl Position {
    /// What the client understands.
    pub fn resolve(self, now: TimestampMs) -> dlog_client::Position {
        match self {
            Self::Oldest => dlog_client::Position::Oldest,
            Self::Newest => dlog_client::Position::Newest,
            Self::Lsn(lsn) => dlog_client::Position::Lsn(lsn),
            Self::Offset(offset) => dlog_client::Position::Offset(offset),
            Self::Time(when) => dlog_client::Position::Time(when.resolve(now)),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oldest => f.write_str("the oldest"),
            Self::Newest => f.write_str("now"),
            Self::Lsn(lsn) => write!(f, "{lsn}"),
            Self::Offset(offset) => write!(f, "offset {offset}"),
            Self::Time(When::At(time)) => f.write_str(&timestamp(*time)),
            Self::Time(When::Ago(ago)) => f.write_str(&timestamp(When::Ago(*ago).resolve(now_ms()))),
        }
    }
}

impl FromStr for Position {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        const EXPECTED: &str = "a position: oldest, newest, an LSN (e3n42), an offset (1000) or a time (2026-01-31, 2026-01-31T12:00:00Z, -5m, '2h ago')";
        match s {
            "oldest" => return Ok(Self::Oldest),
            "newest" => return Ok(Self::Newest),
            _ => {}
        }
        if !s.is_empty() && s.bytes().all(|byte| byte.is_ascii_digit()) {
            return s.parse().map(|offset| Self::Offset(LogOffset(offset))).map_err(|_| not(s, EXPECTED));
        }
        let lsn = || s.parse().ok().map(Self::Lsn);
        lsn().or_else(|| When::parse(s).map(Self::Time)).ok_or_else(|| not(s, EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::{Epoch, Esn};

    use super::*;

    fn parse(s: &str) -> Position {
        s.parse().unwrap()
    }

    #[test]
    fn times_before_now_become_times() {
        assert_eq!(parse("-1s").resolve(5000), dlog_client::Position::Time(4000));
        assert_eq!(parse("17").resolve(5000), dlog_client::Position::Offset(LogOffset(17)));
    }

    #[test]
    fn every_form_is_understood() {
        assert_eq!(parse("oldest"), Position::Oldest);
        assert_eq!(parse("newest"), Position::Newest);
        assert_eq!(parse("e3n42"), Position::Lsn(Lsn::new(Epoch(3), Esn(42))));
        assert_eq!(parse("1000"), Position::Offset(LogOffset(1000)));
        for text in ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00.0009Z"] {
            assert_eq!(parse(text), Position::Time(When::At(1_769_860_800_000)), "{text}");
        }
        assert_eq!(parse("2026-01-31"), Position::Time(When::At(1_769_817_600_000)), "midnight");
        assert_eq!(parse("1969-12-31T23:59:59.9995Z"), Position::Time(When::At(-1)), "rounded down, not towards 0");
        let ago = |seconds| Position::Time(When::Ago(Duration::from_secs(seconds)));
        assert_eq!([parse("-5m"), parse("2h ago"), parse("1dago")], [ago(300), ago(7200), ago(86_400)]);
    }

    #[test]
    fn times_before_now_depend_on_now() {
        assert_eq!(When::Ago(Duration::from_secs(1)).resolve(5000), 4000);
        assert_eq!(When::Ago(Duration::MAX).resolve(5000), 5000 - TimestampMs::MAX);
        assert_eq!(When::At(7).resolve(5000), 7);
    }

    #[test]
    fn everything_else_is_refused() {
        let bad = [
            "",
            "e9n",
            "Oldest",
            "-5",
            "5m",
            "ago",
            "-",
            "+5",
            "99999999999999999999",
            "2026-02-30",
            "2026-1-31",
            "2026-01",
            "2026-02-30T00:00:00Z",
        ];
        for bad in bad {
            let error = bad.parse::<Position>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{bad}' is not a position: oldest, newest, an LSN")), "{error}");
        }
    }
}
