//! A record as an object. Bytes that are UTF-8 are a string under `key` or `value`; others are Base64 under `key_base64` or
//! `value_base64`.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dlog_proto::record::{HeaderRef, HeaderRefs, RecordRef};
use dlog_proto::{LogOffset, Lsn, TimestampMs};
use serde::{Serialize, Serializer};

use super::printer::Place;

#[derive(Serialize)]
struct Object<'a> {
    partition: u32,
    lsn: Lsn,
    offset: LogOffset,
    timestamp_ms: TimestampMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(serialize_with = "headers")]
    headers: HeaderRefs<'a>,
}

#[derive(Serialize)]
struct Header<'a> {
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

pub(super) fn write(out: &mut impl Write, place: Place, record: &RecordRef<'_>) -> io::Result<()> {
    let Place { partition, lsn, offset } = place;
    let ((key, key_base64), (value, value_base64)) = (text_or_base64(record.key), text_or_base64(record.value));
    let (timestamp_ms, headers) = (record.timestamp_ms, record.headers.clone());
    let object = Object { partition, lsn, offset, timestamp_ms, key, key_base64, value, value_base64, headers };
    Ok(serde_json::to_writer(out, &object)?)
}

/// What stands under the plain name, and what under the other.
pub(in crate::commands) fn text_or_base64(bytes: Option<&[u8]>) -> (Option<Option<&str>>, Option<String>) {
    match bytes.map(|bytes| str::from_utf8(bytes).map_err(|_| bytes)) {
        None => (Some(None), None),
        Some(Ok(text)) => (Some(Some(text)), None),
        Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

fn headers<S: Serializer>(headers: &HeaderRefs<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.clone().map(|HeaderRef { key, value }| {
        let (value, value_base64) = text_or_base64(value);
        Header { key, value, value_base64 }
    }))
}
