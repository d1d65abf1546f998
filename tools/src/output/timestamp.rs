//! Times as text: `2026-01-31T12:00:00.123Z`.

use dlog_proto::TimestampMs;
use time::OffsetDateTime;

/// Writes times, and remembers the last second: those of neighbouring records are alike.
#[derive(Debug)]
pub(crate) struct TimestampText {
    text: [u8; LEN],
    /// The second that `text` shows, if any.
    second: Option<i64>,
    far: String,
}

const LEN: usize = "2026-01-31T12:00:00.123Z".len();

impl TimestampText {
    pub(crate) fn new() -> Self {
        Self { text: *b"0000-00-00T00:00:00.000Z", second: None, far: String::new() }
    }

    /// The time as text; one outside of the years 0 to 9999 as a number of milliseconds.
    pub(crate) fn show(&mut self, timestamp_ms: TimestampMs) -> &str {
        let second = timestamp_ms.div_euclid(1000);
        if self.second != Some(second) && !self.set_second(second) {
            self.far = format!("{timestamp_ms}ms");
            return &self.far;
        }
        self.put(20, 3, timestamp_ms.rem_euclid(1000) as u32);
        str::from_utf8(&self.text).expect("digits and signs")
    }

    fn set_second(&mut self, second: i64) -> bool {
        let time = OffsetDateTime::from_unix_timestamp(second).ok().filter(|time| (0..=9999).contains(&time.year()));
        let Some(time) = time else { return false };
        let (hour, minute, seconds) = time.to_hms();
        let two_digits = [u8::from(time.month()), time.day(), hour, minute, seconds];
        self.put(0, 4, time.year().unsigned_abs());
        for (at, number) in [5, 8, 11, 14, 17].into_iter().zip(two_digits) {
            self.put(at, 2, number.into());
        }
        self.second = Some(second);
        true
    }

    fn put(&mut self, at: usize, digits: usize, mut number: u32) {
        for place in self.text[at..at + digits].iter_mut().rev() {
            *place = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

/// One time as text.
pub(crate) fn timestamp(timestamp_ms: TimestampMs) -> String {
    TimestampText::new().show(timestamp_ms).to_owned()
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn times_are_shown_as_they_are_typed() {
        let mut text = TimestampText::new();
        for (ms, shown) in [
            (1_769_860_800_000, "2026-01-31T12:00:00.000Z"),
            (1_769_860_800_123, "2026-01-31T12:00:00.123Z"),
            (1_769_860_801_007, "2026-01-31T12:00:01.007Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(text.show(ms), shown);
            let parsed = OffsetDateTime::parse(shown, &Rfc3339).unwrap();
            assert_eq!(parsed.unix_timestamp_nanos(), i128::from(ms) * 1_000_000);
        }
    }

    #[test]
    fn times_beyond_the_calendar_are_numbers() {
        let mut text = TimestampText::new();
        assert_eq!(text.show(i64::MAX), "9223372036854775807ms");
        assert_eq!(text.show(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text.show(i64::MIN), "-9223372036854775808ms");
    }
}
