//! Settings that do not go together.

use std::net::IpAddr;

use dlog_proto::transport::HostPort;

use super::error::ConfigError;
use super::load::Effective;

pub(super) fn contradictions(effective: &Effective) -> Vec<ConfigError> {
    let checks = [cluster, addresses, sizes, times];
    checks.into_iter().flat_map(|check| check(effective)).map(ConfigError::Contradiction).collect()
}

fn is_wildcard(address: &HostPort) -> bool {
    address.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
}

/// Whether one socket could stand in the way of the other.
fn overlap(a: &HostPort, b: &HostPort) -> bool {
    let host = |address: &HostPort| match address.host() {
        "localhost" => "127.0.0.1".to_owned(),
        host => host.to_owned(),
    };
    a.port() == b.port() && (is_wildcard(a) || is_wildcard(b) || host(a) == host(b))
}

fn cluster(effective: &Effective) -> Vec<String> {
    let config = &effective.config;
    let (id, nodes) = (config.node_id, &config.cluster_nodes);
    let said = |key| format!("{key} ({})", effective.origin(key));
    let mut found = Vec::new();
    match nodes.get(id) {
        None => found.push(format!(
            "node_id = {} ({}) is not among {}, which has {nodes}: add it there, or choose one of those",
            id.0,
            effective.origin("node_id"),
            said("cluster_nodes"),
        )),
        Some(entry) if *entry != config.advertise => found.push(format!(
            "{} is {}, but {} says that this node is at {entry}: other nodes look for it there, so make them the same",
            said("advertise"),
            config.advertise,
            said("cluster_nodes"),
        )),
        Some(_) => {}
    }
    for (node, address) in nodes.iter() {
        if let Some((other, _)) = nodes.iter().find(|(other, at)| *other < node && *at == address) {
            found.push(format!(
                "{} has both node {} and node {} at {address}: each needs an address of its own",
                said("cluster_nodes"),
                other.0,
                node.0
            ));
        }
        // Its own is the business of `addresses`.
        if node != id && is_wildcard(address) {
            found.push(format!(
                "{} has node {} at {address}, which nobody can connect to: name the host",
                said("cluster_nodes"),
                node.0
            ));
        }
    }
    if nodes.len() == 1 && !config.roles.metadata {
        found.push(format!(
            "{} is {}, but {} names no other node that could have the metadata role: add that role, or the nodes that have it",
            said("roles"),
            config.roles,
            said("cluster_nodes"),
        ));
    }
    found
}

fn addresses(effective: &Effective) -> Vec<String> {
    let config = &effective.config;
    let mut found = Vec::new();
    if is_wildcard(&config.advertise) {
        let from = if effective.is_given("advertise") { "advertise" } else { "listen" };
        found.push(format!(
            "{from} = {} ({}) is not an address that clients and nodes can connect to: give the one under which this node is \
             reached, as in --advertise {}:{}",
            config.advertise,
            effective.origin(from),
            "my-host",
            config.advertise.port()
        ));
    }
    if overlap(&config.listen, &config.http) {
        found.push(format!(
            "listen = {} ({}) and http = {} ({}) are the same port: Kafka's protocol and HTTP need one each",
            config.listen,
            effective.origin("listen"),
            config.http,
            effective.origin("http")
        ));
    }
    found
}

fn sizes(effective: &Effective) -> Vec<String> {
    let config = &effective.config;
    let mut found = Vec::new();
    if !config.segment_bytes.0.is_multiple_of(4096) {
        found.push(format!(
            "segment_bytes = {} ({}) is not a multiple of 4096: disks are written in such pages",
            config.segment_bytes,
            effective.origin("segment_bytes")
        ));
    }
    for key in ["limits.batch_bytes_max", "limits.block_bytes"] {
        let limits = &config.limits;
        let value = if key == "limits.block_bytes" { limits.block_bytes } else { limits.batch_bytes_max };
        if value > limits.append_window_bytes {
            found.push(format!(
                "{key} = {value} ({}) does not fit into limits.append_window_bytes = {} ({}): make that at least as large",
                effective.origin(key),
                limits.append_window_bytes,
                effective.origin("limits.append_window_bytes"),
            ));
        }
    }
    found
}

/// A lost packet must not pass for a lost node.
const HEARTBEATS_PER_TIMEOUT: u64 = 3;

fn times(effective: &Effective) -> Vec<String> {
    let times = &effective.config.metadata;
    let too_short = [("metadata.election_ms", times.election_ms), ("metadata.lease_ms", times.lease_ms)];
    let too_short = too_short.into_iter().filter(|(_, ms)| ms.0 < HEARTBEATS_PER_TIMEOUT * times.heartbeat_ms.0);
    too_short
        .map(|(key, ms)| {
            format!(
                "{key} = {} ({}) is less than {HEARTBEATS_PER_TIMEOUT} times metadata.heartbeat_ms = {} ({}): one late heartbeat \
                 would pass for a lost node",
                ms.0,
                effective.origin(key),
                times.heartbeat_ms.0,
                effective.origin("metadata.heartbeat_ms"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::config::load::tests::loaded;

    fn refused(args: &str) -> String {
        loaded(&args.split(' ').collect::<Vec<_>>()).expect_err(args)
    }

    #[test]
    fn a_cluster_must_make_sense() {
        assert_eq!(
            refused("--node-id 4 --cluster-nodes 1,2"),
            "node_id = 4 (--node-id) is not among cluster_nodes (--cluster-nodes), which has 1=localhost:9092,2=localhost:9093: \
             add it there, or choose one of those"
        );
        assert!(refused("--cluster-nodes 1=a:1,2=a:1").contains("both node 1 and node 2 at a:1"));
        assert!(
            refused("--cluster-nodes 1=a:1,2=0.0.0.0:1").contains("node 2 at 0.0.0.0:1, which nobody can connect to")
        );
        assert!(refused("--cluster-nodes 1=a:1 --advertise b:1").contains("says that this node is at a:1"));
        assert!(refused("--roles storage").contains("no other node that could have the metadata role"));
        assert!(loaded(&["--roles", "storage", "--cluster-nodes", "1,2"]).is_ok());
    }

    #[test]
    fn a_node_must_be_reachable() {
        assert_eq!(
            refused("--listen 0.0.0.0:9092"),
            "listen = 0.0.0.0:9092 (--listen) is not an address that clients and nodes can connect to: give the one under which \
             this node is reached, as in --advertise my-host:9092"
        );
        assert!(refused("--advertise [::]:9092").starts_with("advertise = [::]:9092 (--advertise)"));
        assert!(loaded(&["--listen", "0.0.0.0:9092", "--advertise", "10.0.0.1:9092"]).is_ok());
    }

    #[test]
    fn a_port_serves_one_purpose() {
        for http in ["localhost:9092", "127.0.0.1:9092", "0.0.0.0:9092"] {
            assert!(refused(&format!("--http {http}")).contains("are the same port"), "{http}");
        }
        assert!(loaded(&["--http", "10.0.0.1:9092"]).is_ok());
    }

    #[test]
    fn sizes_must_fit_into_each_other() {
        assert!(refused("--segment-bytes 134217729").contains("not a multiple of 4096"));
        let small = "--limits-append-window-bytes 1MiB";
        assert!(refused(&format!("{small} --limits-block-bytes 2MiB")).contains("limits.block_bytes = 2MiB"));
        assert!(refused(&format!("{small} --limits-batch-bytes-max 2MiB")).contains("limits.batch_bytes_max = 2MiB"));
    }

    #[test]
    fn one_late_heartbeat_is_not_a_lost_node() {
        let error = refused("--metadata-heartbeat-ms 100 --metadata-election-ms 300 --metadata-lease-ms 299");
        assert!(error.starts_with("metadata.lease_ms = 299 (--metadata-lease-ms)") && !error.contains('\n'), "{error}");
    }
}
