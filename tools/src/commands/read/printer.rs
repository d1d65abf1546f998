//! Records as they are asked for.

use std::io::{self, Write};

use dlog_client::ReadBatch;
use dlog_proto::record::RecordRef;
use dlog_proto::{LogOffset, Lsn};

use super::{json, text};
use crate::args::Format;
use crate::output::timestamp::TimestampText;

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) partition: u32,
    pub(super) lsn: Lsn,
    pub(super) offset: LogOffset,
}

#[derive(Debug)]
pub(super) struct Printer<W> {
    out: W,
    format: Format,
    /// Text names the partition.
    several: bool,
    timestamp: TimestampText,
}

impl<W: Write> Printer<W> {
    pub(super) fn new(out: W, format: Format, several: bool) -> Self {
        Self { out, format, several, timestamp: TimestampText::new() }
    }

    pub(super) fn record(&mut self, partition: u32, batch: &ReadBatch, record: &RecordRef<'_>) -> io::Result<()> {
        let delta = u64::from(record.offset_delta);
        let place = Place { partition, lsn: Lsn(batch.lsn.0 + delta), offset: LogOffset(batch.offset.0 + delta) };
        self.line(place, record)
    }

    fn line(&mut self, place: Place, record: &RecordRef<'_>) -> io::Result<()> {
        let out = &mut self.out;
        match self.format {
            Format::Raw => out.write_all(record.value.unwrap_or_default())?,
            Format::Text => {
                if self.several {
                    write!(out, "{}  ", place.partition)?;
                }
                text::write(out, place.lsn, self.timestamp.show(record.timestamp_ms), record)?;
            }
            Format::Json => json::write(out, place, record)?,
        }
        out.write_all(b"\n")
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, RecordBatch};

    use super::*;

    const PLACE: Place = Place { partition: 3, lsn: Lsn((2 << 32) + 7), offset: LogOffset(41) };

    fn printed(format: Format, several: bool, record: NewRecord<'_>) -> String {
        let mut builder = BatchBuilder::new(0);
        builder.append(&record);
        let batch = RecordBatch::parse(builder.finish(BatchOptions::default()).freeze()).unwrap();
        let records = batch.records().unwrap();
        let mut out = Vec::new();
        let record = records.refs().next().unwrap().unwrap();
        Printer::new(&mut out, format, several).line(PLACE, &record).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> NewRecord<'a> {
        NewRecord { timestamp_ms: 1_769_860_800_123, key, value, headers: &[] }
    }

    #[test]
    fn raw_is_the_value() {
        assert_eq!(printed(Format::Raw, true, record(Some(b"k"), Some(b"va\tlue"))), "va\tlue\n");
        assert_eq!(printed(Format::Raw, false, record(None, None)), "\n");
    }

    #[test]
    fn text_is_for_people() {
        let line = |several, key, value| printed(Format::Text, several, record(key, value));
        assert_eq!(line(false, None, Some(b"hello")), "e2n7  2026-01-31T12:00:00.123Z  -  hello\n");
        assert_eq!(line(true, Some(b"k"), Some(b"v")), "3  e2n7  2026-01-31T12:00:00.123Z  k  v\n");
        assert!(line(false, None, None).ends_with("Z  -  (no value)\n"));
        let nasty = line(false, None, Some(b"a\nb\x1b[31m\xff\xc3\xa4\t|"));
        assert!(nasty.ends_with("  -  a\\nb\\u{1b}[31m\\xff\u{e4}\t|\n"), "{nasty}");
    }

    #[test]
    fn text_shows_headers() {
        let headers: [(&str, Option<&[u8]>); 2] = [("a", Some(b"1")), ("b", None)];
        let line = printed(Format::Text, false, NewRecord { headers: &headers, ..record(None, Some(b"v")) });
        assert!(line.ends_with("  -  v  {a=1, b}\n"), "{line}");
    }

    #[test]
    fn json_is_an_object_a_line() {
        let line = printed(Format::Json, false, record(Some(b"k\""), Some(b"v")));
        let expected = "{\"partition\":3,\"lsn\":\"e2n7\",\"offset\":41,\"timestamp_ms\":1769860800123,\
                        \"key\":\"k\\\"\",\"value\":\"v\",\"headers\":[]}\n";
        assert_eq!(line, expected);
        let line = printed(Format::Json, false, record(None, Some(b"\xff\x00")));
        assert!(line.contains("\"key\":null,\"value_base64\":\"/wA=\","), "{line}");
        let headers: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("b", None), ("c", Some(b"\xff"))];
        let line = printed(Format::Json, false, NewRecord { headers: &headers, ..record(None, None) });
        let headers = "[{\"key\":\"a\",\"value\":\"1\"},{\"key\":\"b\",\"value\":null},{\"key\":\"c\",\"value_base64\":\"/w==\"}]";
        assert!(line.ends_with(&format!("\"value\":null,\"headers\":{headers}}}\n")), "{line}");
    }
}
