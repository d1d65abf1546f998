//! How a node is told what to do: one list of settings, four sources.
//!
//! Weight, from light to heavy: defaults, a TOML file (`--config FILE` or `DLOG_CONFIG`), `DLOG_…` variables, flags. The
//! list below is the only place where a setting is declared: its field, key, flag, variable, type, default, range and help
//! follow from it.
//!
//! ```text
//! limits.connections_max = 100      key in a file, under [limits]
//! DLOG_LIMITS_CONNECTIONS_MAX=100   variable
//! --limits-connections-max 100      flag
//! ```
//! Values go from any source through [`values::Setting`], and keep where they came from ([`Origin`]), so that every complaint
//! says what to change where. serde would read them too, but could not say that.

mod check;
mod environment;
mod error;
mod file;
mod flags;
mod load;
mod schema;
mod show;
mod values;

use std::path::PathBuf;

use dlog_metadata::state::Roles;
use dlog_proto::transport::HostPort;
use dlog_proto::{Location, NodeId};

pub use error::{ConfigError, ConfigErrors};
pub use flags::SettingFlags;
pub use load::{Effective, Origin, load};
pub use schema::Field;
pub use values::{ByteSize, ClusterNodes, LogFilter, LogFormat, Millis};

use values::{http_address, local_address};

schema::settings! {
    /// What a node is told. [`load`] gives one that has been checked.
    Config {
        /// This node's number in its cluster, from 1; no two nodes share one, and a data directory belongs to one for ever.
        node_id: NodeId = NodeId(1);

        /// Directory of everything that this node keeps; made if it is not there.
        data_dir: PathBuf = PathBuf::from("./dlog-data");

        /// Where clients and other nodes are served: QUIC on UDP, Kafka's protocol on TCP.
        listen: HostPort = local_address(NodeId(1)),
            derived "this node's entry in cluster_nodes, or localhost:9092, with 1 added to the port for each node before this one";

        /// Address under which clients and other nodes reach this node, if it is not the one it listens on.
        advertise: HostPort = local_address(NodeId(1)), derived "this node's entry in cluster_nodes, or listen";

        /// Where HTTP is served: health, metrics, status.
        http: HostPort = http_address(NodeId(1)),
            derived "localhost:9644, with 1 added to the port for each node before this one";

        /// What this node does, separated by commas: metadata, sequencer, storage.
        roles: Roles = Roles::ALL;

        /// The nodes that found the cluster, this one included, the same on each: 1=host:port,2=host:port,3=host:port, or
        /// 1,2,3 for nodes on this machine with the default ports.
        cluster_nodes: ClusterNodes = ClusterNodes::only(NodeId(1), local_address(NodeId(1))), derived "this node alone";

        /// Where this node stands, so that copies are spread: region=eu,datacenter=fra1,rack=r7.
        location: Location = Location::default();

        /// Share of sequencers and records that this node gets, relative to other nodes; 0 takes none.
        weight: u16 = 100, within 0..=10_000;

        /// Threads that move records; 0 takes half the cores, at least one.
        data_threads: u16 = 0, within 0..=1024;

        /// Shards of this node: each is a directory shard-N of data_dir with a writer thread of its own.
        shards: u16 = 1, within 1..=64;

        /// Length of the files in which a shard keeps records, in bytes; a multiple of 4096.
        segment_bytes: ByteSize = ByteSize::gib(1), within ByteSize::mib(128)..=ByteSize::gib(2);

        /// How log lines are written to standard error: human or json.
        log_format: LogFormat = LogFormat::Human;

        /// Which log lines are written: error, warn, info, debug, trace or off, also per module, such as info,dlog_sequencer=debug.
        log_level: LogFilter = LogFilter::default();

        section write_cache: WriteCache "Records of logs with the durability write_cache wait in memory within these bounds until they are flushed." {
            /// Longest wait before a flush, in milliseconds. An idle disk does not wait.
            flush_ms: Millis = Millis(10), within Millis(1)..=Millis(60_000);

            /// Most bytes per shard that wait before a flush.
            flush_bytes: ByteSize = ByteSize::mib(8), within ByteSize::kib(64)..=ByteSize::gib(1);
        }

        section tls: Tls "Who may believe whom." {
            /// Directory of the CA's and this node's certificate and key; filled at first start.
            dir: PathBuf = PathBuf::from("./dlog-data/tls"), derived "tls in data_dir";

            /// Certificate of the cluster's CA, which other nodes must show a certificate of.
            ca: PathBuf = PathBuf::from("./dlog-data/tls/ca.pem"), derived "ca.pem in tls.dir";
        }

        section limits: Limits "What clients can make this node hold." {
            /// Most open connections; more are refused.
            connections_max: u32 = 16_384, within 16..=1_000_000;

            /// Longest record batch that is taken, in bytes as sent.
            batch_bytes_max: ByteSize = ByteSize(1_048_588), within ByteSize::kib(1)..=ByteSize::mib(30);

            /// Length in bytes at which a block of waiting batches is cut.
            block_bytes: ByteSize = ByteSize::mib(1), within ByteSize::kib(4)..=ByteSize::mib(30);

            /// Most bytes of one partition that wait or are on their way to their copies; more appends are told to retry.
            append_window_bytes: ByteSize = ByteSize::mib(64), within ByteSize::mib(1)..=ByteSize::gib(4);

            /// Most records of one partition that wait or are on their way to their copies; more appends are told to retry.
            append_window_records: u32 = 16_777_216, within 1..=4_294_967_294;

            /// Records after which a partition goes on in a new epoch, which nobody notices. Lower it only to see that.
            epoch_records_max: u32 = 4_294_967_294, within 1_000..=4_294_967_294;
        }

        section kafka: Kafka "What Kafka clients get, and what is expected of them." {
            /// Whether asking for a topic that is not there makes it.
            auto_create_topics: bool = true;

            /// Partitions of a topic if its maker does not say how many.
            partitions_default: u32 = 1, within 1..=10_000;

            /// Copies of a topic's records if its maker does not say how many; fewer if there are fewer storage nodes.
            replication_factor_default: u16 = 3, within 1..=16;

            /// A connection that asks for nothing for this long is closed, in milliseconds.
            connection_idle_ms: Millis = Millis(600_000), within Millis(100)..=Millis(86_400_000);

            /// A connection that gets no further inside a request or an answer for this long is closed, in milliseconds.
            stall_ms: Millis = Millis(60_000), within Millis(100)..=Millis(3_600_000);
        }

        section metadata: MetadataTimes "How soon the metadata tier notices what is gone." {
            /// How often the leader of the metadata tier is heard, and each node by it, in milliseconds.
            heartbeat_ms: Millis = Millis(50), within Millis(5)..=Millis(10_000);

            /// Without hearing the leader for this long (up to half as much again, at random) a voter stands for election, in milliseconds.
            election_ms: Millis = Millis(250), within Millis(20)..=Millis(60_000);

            /// A node not heard for this long is taken for dead and its partitions for orphans, in milliseconds.
            lease_ms: Millis = Millis(250), within Millis(20)..=Millis(60_000);
        }
    }
}

impl Config {
    /// [`Config::data_threads`], with 0 resolved for a machine of so many cores.
    pub fn data_threads_on(&self, cores: usize) -> usize {
        match self.data_threads {
            0 => (cores / 2).max(1),
            threads => threads.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_cores_move_records_unless_told_otherwise() {
        let mut config = Config::default();
        assert_eq!([1, 2, 3, 16].map(|cores| config.data_threads_on(cores)), [1, 1, 1, 8]);
        config.data_threads = 5;
        assert_eq!(config.data_threads_on(2), 5);
    }
}
