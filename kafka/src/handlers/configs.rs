//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs.

use std::collections::BTreeMap;
use std::sync::Arc;

use dlog_metadata::state::{Command, LogInfo, Response, SetAttributes};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::text;
use super::topics::{Refused, unavailable, unexpected, wait_applied};
use crate::cluster::Cluster;
use crate::configs::{self, SOURCE_DEFAULT, SOURCE_STATIC_BROKER, Value};
use crate::errors;
use crate::gateway::Shared;

/// Kinds of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Kinds of incremental changes.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(super) async fn describe(
    shared: Arc<Shared>,
    version: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let mut response = DescribeConfigsResponse::default();
    let (synonyms, documentation) = (request.include_synonyms, version >= 3 && request.include_documentation);
    for resource in request.resources {
        let mut result = DescribeConfigsResult::default();
        match values(&shared, &resource) {
            Ok(values) => {
                let wanted = |value: &Value| {
                    resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|key| **key == *value.name))
                };
                let values = values.into_iter().filter(wanted);
                result.configs = values.map(|value| shown(value, version, synonyms, documentation)).collect();
            }
            Err((error, why)) => (result.error_code, result.error_message) = (error.code(), Some(text(why))),
        }
        (result.resource_type, result.resource_name) = (resource.resource_type, resource.resource_name);
        response.results.push(result);
    }
    response
}

fn values(shared: &Shared, resource: &DescribeConfigsResource) -> Result<Vec<Value>, Refused> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => Ok(configs::topic_values(&topic(shared, name)?.attributes, &shared.settings)),
        // Of all brokers together nothing is set.
        BROKER if name.is_empty() => Ok(Vec::new()),
        BROKER => {
            let cluster = Cluster::of(&*shared.broker);
            let known = name.parse().is_ok_and(|node| cluster.view.node(dlog_proto::NodeId(node)).is_some());
            let unknown = || (ResponseError::InvalidRequest, format!("there is no broker '{name}'"));
            known.then(|| configs::broker_values(&shared.settings)).ok_or_else(unknown)
        }
        kind => Err(unsupported(kind)),
    }
}

fn unsupported(kind: i8) -> Refused {
    (
        ResponseError::InvalidRequest,
        format!("resources of type {kind} have no configs here: ask for topics (2) or brokers (4)"),
    )
}

fn topic(shared: &Shared, name: &str) -> Result<Arc<LogInfo>, Refused> {
    let unknown = || (ResponseError::UnknownTopicOrPartition, format!("there is no topic '{name}'"));
    Cluster::of(&*shared.broker).topic(name).ok_or_else(unknown)
}

fn shown(value: Value, version: i16, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let mut shown = DescribeConfigsResourceResult::default();
    if synonyms {
        let synonym = |source: i8, text_of: &str| {
            let mut synonym = DescribeConfigsSynonym::default();
            (synonym.name, synonym.value) = (text(&*value.name), Some(text(text_of)));
            synonym.source = source;
            synonym
        };
        shown.synonyms.push(synonym(value.source, &value.value));
        let default = value.default.as_deref().filter(|_| value.source != SOURCE_DEFAULT);
        shown.synonyms.extend(default.map(|default| synonym(SOURCE_DEFAULT, default)));
    }
    shown.name = text(value.name);
    shown.value = Some(text(value.value));
    shown.read_only = value.source == SOURCE_STATIC_BROKER;
    shown.config_source = value.source;
    if version >= 3 {
        shown.config_type = value.kind;
        shown.documentation = documentation.then(|| text(value.doc));
    }
    shown
}

type Changes = BTreeMap<String, Option<String>>;

pub(super) async fn alter(shared: Arc<Shared>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut response = AlterConfigsResponse::default();
    for resource in request.resources {
        let given = resource
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)));
        let name = resource.resource_name.as_str();
        let outcome = match alterable(&shared, resource.resource_type, name) {
            Ok(topic) => apply(&shared, &topic, replaced(&topic, given), request.validate_only).await,
            Err(refused) => Err(refused),
        };
        let mut result = AlterConfigsResourceResponse::default();
        if let Err((error, why)) = outcome {
            (result.error_code, result.error_message) = (error.code(), Some(text(why)));
        }
        (result.resource_type, result.resource_name) = (resource.resource_type, resource.resource_name);
        response.responses.push(result);
    }
    response
}

/// Everything that is not given goes back to its default.
fn replaced(topic: &LogInfo, given: impl Iterator<Item = (String, Option<String>)>) -> Changes {
    let mut changes: Changes = topic.attributes.extra.keys().map(|name| (name.clone(), None)).collect();
    changes.extend(given);
    changes
}

pub(super) async fn alter_incrementally(
    shared: Arc<Shared>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut response = IncrementalAlterConfigsResponse::default();
    for resource in request.resources {
        let ops = resource.configs.iter().map(|config| {
            (config.name.as_str(), config.config_operation, config.value.as_ref().map(|value| value.as_str()))
        });
        let planned = alterable(&shared, resource.resource_type, &resource.resource_name)
            .and_then(|topic| Ok((changed(&topic, ops)?, topic)));
        let outcome = match planned {
            Ok((changes, topic)) => apply(&shared, &topic, changes, request.validate_only).await,
            Err(refused) => Err(refused),
        };
        let mut result = IncrementalResponse::default();
        if let Err((error, why)) = outcome {
            (result.error_code, result.error_message) = (error.code(), Some(text(why)));
        }
        (result.resource_type, result.resource_name) = (resource.resource_type, resource.resource_name);
        response.responses.push(result);
    }
    response
}

fn alterable(shared: &Shared, kind: i8, name: &str) -> Result<Arc<LogInfo>, Refused> {
    match kind {
        TOPIC => topic(shared, name),
        BROKER => {
            let why = "a node's settings stand in its configuration and cannot be changed from here";
            Err((ResponseError::InvalidRequest, why.to_owned()))
        }
        kind => Err(unsupported(kind)),
    }
}

fn changed<'a>(
    topic: &LogInfo,
    operations: impl Iterator<Item = (&'a str, i8, Option<&'a str>)>,
) -> Result<Changes, Refused> {
    let mut changes = Changes::new();
    for (name, operation, value) in operations {
        let needed = || (ResponseError::InvalidRequest, format!("'{name}' has no value"));
        let new = match operation {
            SET => Some(value.ok_or_else(needed)?.to_owned()),
            DELETE => None,
            APPEND | SUBTRACT if !configs::is_list(name) => {
                return Err((ResponseError::InvalidConfig, format!("'{name}' is no list to add to or take from")));
            }
            APPEND | SUBTRACT => Some(relisted(topic, name, value.ok_or_else(needed)?, operation == APPEND)),
            other => return Err((ResponseError::InvalidRequest, format!("there is no operation {other} on configs"))),
        };
        if changes.insert(name.to_owned(), new).is_some() {
            return Err((ResponseError::InvalidRequest, format!("'{name}' is changed twice")));
        }
    }
    Ok(changes)
}

fn relisted(topic: &LogInfo, name: &str, value: &str, adds: bool) -> String {
    let current = configs::effective(&topic.attributes, name);
    let items =
        |list: &str| list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect();
    let (mut list, change): (Vec<String>, Vec<String>) = (items(&current), items(value));
    match adds {
        true => change.into_iter().for_each(|item| {
            if !list.contains(&item) {
                list.push(item);
            }
        }),
        false => list.retain(|item| !change.contains(item)),
    }
    list.join(",")
}

async fn apply(shared: &Shared, topic: &LogInfo, changes: Changes, validate_only: bool) -> Result<(), Refused> {
    let changes = configs::checked(&topic.attributes, changes)?;
    let tried = topic.attributes.clone().update(&changes);
    tried.map_err(|error| (ResponseError::InvalidConfig, error.to_string()))?;
    if validate_only || changes.is_empty() {
        return Ok(());
    }
    let set = Command::SetAttributes(SetAttributes { log: topic.log.clone(), changes });
    match shared.broker.propose(set).await.map_err(|error| unavailable(&error))? {
        (revision, Response::SetAttributes(Ok(()))) => {
            wait_applied(shared, revision).await;
            Ok(())
        }
        (_, Response::SetAttributes(Err(error))) => Err((errors::of_set_attributes(&error), error.to_string())),
        (_, other) => Err(unexpected(&other)),
    }
}
