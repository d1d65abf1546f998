//! A record as a line for people: `e3n42  2026-01-31T12:00:00.123Z  key  value  {header=value}`.

use std::io::{self, Write};

use dlog_proto::Lsn;
use dlog_proto::record::RecordRef;

pub(in crate::commands) fn write(
    out: &mut impl Write,
    lsn: Lsn,
    timestamp: &str,
    record: &RecordRef<'_>,
) -> io::Result<()> {
    write!(out, "{lsn}  ")?;
    out.write_all(timestamp.as_bytes())?;
    out.write_all(b"  ")?;
    printable(out, record.key.unwrap_or(b"-"))?;
    out.write_all(b"  ")?;
    printable(out, record.value.unwrap_or(b"(no value)"))?;
    let mut before: &[u8] = b"  {";
    for header in record.headers.clone() {
        out.write_all(before)?;
        printable(out, header.key.as_bytes())?;
        if let Some(value) = header.value {
            out.write_all(b"=")?;
            printable(out, value)?;
        }
        before = b", ";
    }
    if record.headers.len() > 0 { out.write_all(b"}") } else { Ok(()) }
}

/// Keeps what would move the cursor, change colours or is no text from doing so.
fn printable(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let harmless = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    // Without an early end, the compiler looks at many bytes at a time.
    if bytes.iter().fold(true, |all, byte| all & harmless(byte)) {
        return out.write_all(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() && char != '\t' {
                write!(out, "{}", char.escape_default())?;
            } else {
                write!(out, "{char}")?;
            }
        }
        write!(out, "{}", chunk.invalid().escape_ascii())?;
    }
    Ok(())
}
