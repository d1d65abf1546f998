//! A request's frame, taken apart.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, RequestKind};
use kafka_protocol::protocol::StrBytes;

use super::shape::{Shape, ShapeError};
use super::shapes::shape;
use super::versions::served;

/// What stands before a request's body.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
    pub(crate) client_id: Option<StrBytes>,
}

/// A request that can be answered.
#[derive(Debug)]
pub(crate) enum Request {
    Known {
        header: Header,
        body: Box<RequestKind>,
    },
    /// ApiVersions in a version that is not known: it is answered in version 0, whatever follows (KIP-511).
    UnknownApiVersions {
        correlation: i32,
    },
}

/// Why nothing can be said in return: the connection is closed, as Kafka does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("its request ends inside the header")]
    ShortHeader,
    #[error("it asked for API {0}, which is not served")]
    UnknownKey(i16),
    #[error("it sent {key:?} in version {version}, which is not served: it should ask with ApiVersions first")]
    Version { key: ApiKey, version: i16 },
    #[error("its {key:?} request (version {version}) does not hold together: {reason}")]
    Malformed { key: ApiKey, version: i16, reason: String },
}

/// Takes a frame apart, its length field taken off. Records stay where they are: they share the frame's bytes.
pub(crate) fn parse(mut frame: Bytes) -> Result<Request, Refusal> {
    let short = |_| Refusal::ShortHeader;
    let number = frame.try_get_i16().map_err(short)?;
    let version = frame.try_get_i16().map_err(short)?;
    let correlation = frame.try_get_i32().map_err(short)?;
    let key = ApiKey::try_from(number).map_err(|()| Refusal::UnknownKey(number))?;
    let (Some(range), Some(shape)) = (served(key), shape(key)) else { return Err(Refusal::UnknownKey(number)) };
    if !(range.min..=range.max).contains(&version) {
        return match key {
            ApiKey::ApiVersions => Ok(Request::UnknownApiVersions { correlation }),
            _ => Err(Refusal::Version { key, version }),
        };
    }
    let malformed = |reason: String| Refusal::Malformed { key, version, reason };
    let client_id = client_id(&mut frame).map_err(|error| malformed(error.to_string()))?;
    if key.request_header_version(version) >= 2 {
        skip_tags(&mut frame).map_err(|error| malformed(error.to_string()))?;
    }
    check(shape, &frame, version).map_err(|error| malformed(error.to_string()))?;
    let body = RequestKind::decode(key, &mut frame, version).map_err(|error| malformed(error.to_string()))?;
    let header = Header { key, version, correlation, client_id };
    Ok(Request::Known { header, body: Box::new(body) })
}

fn check(shape: &Shape, body: &Bytes, version: i16) -> Result<(), ShapeError> {
    shape.check(body, version)
}

/// Not compact even where everything else is.
fn client_id(frame: &mut Bytes) -> Result<Option<StrBytes>, &'static str> {
    let len = frame.try_get_i16().map_err(|_| "it ends before the client id")?;
    if len == -1 {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| "its client id has a negative length")?;
    if len > frame.len() {
        return Err("its client id is longer than the request");
    }
    StrBytes::from_utf8(frame.split_to(len)).map(Some).map_err(|_| "its client id is not UTF-8")
}

fn skip_tags(frame: &mut Bytes) -> Result<(), &'static str> {
    let short = "it ends inside the header's tagged fields";
    for _ in 0..varint(frame).ok_or(short)? {
        varint(frame).ok_or(short)?;
        let len = varint(frame).ok_or(short)? as usize;
        if len > frame.len() {
            return Err(short);
        }
        frame.advance(len);
    }
    Ok(())
}

fn varint(frame: &mut Bytes) -> Option<u32> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let byte = frame.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}
