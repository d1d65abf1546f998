//! `dlog log create`

use std::sync::Arc;

use dlog_client::Client;
use dlog_metadata::state::{LogAttributes, NodeInfo};
use dlog_proto::{LogId, NodeId, QuorumConfig};

use super::attributes::AttributeChanges;
use crate::args::LogCreateArgs;
use crate::failure::Failure;
use crate::output::human::counted;
use crate::output::print;

/// Where the cluster keeps logs of its own.
const INTERNAL_NAMESPACE: &str = "__dlog";

pub(crate) async fn run(client: &Client, args: &LogCreateArgs) -> Result<(), Failure> {
    check_namespace(&args.log)?;
    let replication = match args.replication {
        Some(replication) => replication,
        None => default_replication(client).await?,
    };
    let attributes = attributes(args, replication)?;
    let quorum = attributes.replication.quorum;
    client.create_log(&args.log, args.partitions, attributes).await?;
    let partitions = counted(args.partitions.into(), "partition");
    let (copies, acks) = (quorum.replication_factor, quorum.write_quorum);
    print(&format!("created {} with {partitions}, replication {copies}, write quorum {acks}\n", args.log))
}

pub(super) fn check_namespace(log: &LogId) -> Result<(), Failure> {
    match log.namespace() {
        INTERNAL_NAMESPACE => {
            Err(Failure::usage(format!("{log}: the namespace {INTERNAL_NAMESPACE} is for internal logs"))
                .hint(format!("choose another one, such as default/{}", log.name())))
        }
        _ => Ok(()),
    }
}

/// As many copies as there are nodes to keep them, up to the default.
async fn default_replication(client: &Client) -> Result<u8, Failure> {
    let cluster = client.cluster().await?;
    let stores = |(id, node): &&(NodeId, Arc<NodeInfo>)| node.writable_shards(*id).next().is_some();
    let nodes = cluster.nodes.iter().filter(stores).count();
    Ok(u8::try_from(nodes).unwrap_or(u8::MAX).clamp(1, QuorumConfig::REPLICATION_DEFAULT))
}

fn attributes(args: &LogCreateArgs, replication: u8) -> Result<LogAttributes, Failure> {
    let changes = AttributeChanges::default().flag("write_quorum", args.write_quorum).set(&args.attributes)?;
    changes.apply(LogAttributes::replicated(replication))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LogCreateArgs,
    }

    fn attributes_of(line: &str) -> Result<LogAttributes, String> {
        let words = ["create", "demo/lines"].into_iter().chain(line.split_whitespace());
        let args = Line::try_parse_from(words).unwrap().args;
        attributes(&args, args.replication.unwrap()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn flags_and_attributes_end_up_in_one_place() {
        let attributes = attributes_of("--replication 5 --write-quorum 4 --attr durability=write_cache --attr x.a=1");
        let attributes = attributes.unwrap();
        assert_eq!(attributes.get("write_quorum").as_deref(), Some("4"));
        assert_eq!(attributes.get("read_quorum").as_deref(), Some("2"), "it follows");
        assert_eq!(attributes.get("durability").as_deref(), Some("write_cache"));
        assert_eq!(attributes.get("x.a").as_deref(), Some("1"));
    }

    #[test]
    fn what_is_misspelt_is_recognised() {
        let error = attributes_of("--replication 1 --attr retention.sm=1").unwrap_err();
        assert!(error.contains("no attribute 'retention.sm'\nhint: did you mean retention.ms?"), "{error}");
        let error = attributes_of("--replication 1 --attr banana=1").unwrap_err();
        assert!(error.contains("there are replication_factor, "), "{error}");
        let error = attributes_of("--replication 1 --attr durability=maybe").unwrap_err();
        assert!(error.contains("durability cannot be 'maybe'"), "{error}");
    }

    #[test]
    fn nothing_is_said_twice() {
        let error = attributes_of("--replication 3 --write-quorum 2 --attr write_quorum=3").unwrap_err();
        assert!(error.contains("write_quorum is given twice"), "{error}");
    }

    #[test]
    fn batches_have_room_for_records() {
        for max in ["0", "1023"] {
            let error = attributes_of(&format!("--replication 1 --attr max.message.bytes={max}")).unwrap_err();
            assert!(error.contains(&format!("must be at least 1024, not {max}")), "{error}");
        }
        let attributes = attributes_of("--replication 1 --attr max.message.bytes=1024").unwrap();
        assert_eq!(attributes.max_message_bytes(), Some(1024));
    }

    #[test]
    fn the_namespace_of_internal_logs_is_taken() {
        let error = check_namespace(&"__dlog/mine".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("the namespace __dlog is for internal logs\nhint: choose another one"), "{error}");
        assert_eq!(check_namespace(&"dlog/__dlog".parse().unwrap()), Ok(()));
    }

    #[test]
    fn impossible_quorums_are_refused_here() {
        let error = attributes_of("--replication 3 --write-quorum 4").unwrap_err();
        assert!(error.contains("write quorum must be 1 to the replication (3), not 4"), "{error}");
    }
}
