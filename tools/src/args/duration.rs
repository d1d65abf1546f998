//! Time spans as people write them: `500ms`, `10s`, `5m`, `2h`, `7d`.

use std::time::Duration;

use dlog_proto::ParseError;

use super::not;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

pub fn parse_duration(s: &str) -> Result<Duration, ParseError> {
    let parse = || {
        let digits = s.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = s.split_at(digits);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        number.parse::<u64>().ok()?.checked_mul(*unit_ms).map(Duration::from_millis)
    };
    parse().ok_or_else(|| not(s, "a time span such as 500ms, 10s, 5m, 2h or 7d"))
}

/// As [`parse_duration`], but nothing can be done in no time.
pub fn parse_timeout(s: &str) -> Result<Duration, String> {
    match parse_duration(s) {
        Ok(Duration::ZERO) => Err("it must be more than 0".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_more_than_nothing() {
        assert_eq!(parse_timeout("1ms"), Ok(Duration::from_millis(1)));
        for nothing in ["0s", "0ms", "00d"] {
            assert!(parse_timeout(nothing).unwrap_err().contains("must be more than 0"), "{nothing}");
        }
    }

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, ms) in
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "5", "s", "-5s", "5 s", "5sec", "1.5h", "99999999999999999d", "5é"] {
            assert!(parse_timeout(bad).is_err());
            assert!(parse_duration(bad).unwrap_err().to_string().contains("is not a time span"), "{bad}");
        }
    }
}
