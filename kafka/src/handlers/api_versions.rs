//! ApiVersions: the first thing that every client asks.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use super::Caller;
use crate::wire::versions::{SERVED, told_min};
use crate::wire::{Answer, answer};

fn told((key, min, max): (ApiKey, i16, i16)) -> ApiVersion {
    let mut version = ApiVersion::default();
    version.api_key = key as i16;
    version.min_version = told_min(key, min);
    version.max_version = max;
    version
}

pub(super) fn handle(caller: &mut Caller, version: i16, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse::default();
    let (name, software_version) = (request.client_software_name, request.client_software_version);
    if version >= 3 {
        if !is_software_name(&name) || !is_software_name(&software_version) {
            response.error_code = ResponseError::InvalidRequest.code();
            return response;
        }
        tracing::debug!(peer = %caller.peer, software = %name.as_str(), version = %software_version.as_str(), "kafka client");
        caller.software = Some((name, software_version));
    }
    response.api_keys = SERVED.iter().copied().map(told).collect();
    response
}

/// The answer to a version that is not known: in version 0, and it says which are (KIP-511).
pub(super) fn unknown_version(correlation: i32) -> Answer {
    let mut response = ApiVersionsResponse::default();
    response.error_code = ResponseError::UnsupportedVersion.code();
    response.api_keys = SERVED.iter().copied().filter(|(key, ..)| *key == ApiKey::ApiVersions).map(told).collect();
    answer(correlation, 0, &response)
}

/// Letters and digits, and dots and hyphens between them.
fn is_software_name(name: &str) -> bool {
    let (bytes, ends) = (name.as_bytes(), |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric));
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(legal)
}
