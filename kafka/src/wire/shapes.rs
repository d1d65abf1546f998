//! The shapes of all requests that are served, from the protocol's message definitions.

use kafka_protocol::messages::ApiKey;

use super::shape::{Field, Kind, Shape};

const LAST: i16 = i16::MAX;

const BOOL: Kind = Kind::Fixed(1);
const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const TEXTS: Kind = Kind::Each(&Kind::Text);
const I32S: Kind = Kind::Each(&I32);

const fn all(kind: Kind) -> Field {
    Field { kind, since: 0, until: LAST }
}

const fn since(since: i16, kind: Kind) -> Field {
    Field { kind, since, until: LAST }
}

const fn until(until: i16, kind: Kind) -> Field {
    Field { kind, since: 0, until }
}

const fn within(since: i16, until: i16, kind: Kind) -> Field {
    Field { kind, since, until }
}

const fn structs(fields: &'static [Field]) -> Kind {
    Kind::Structs(fields)
}

const TEXT: Field = all(Kind::Text);
const TOPIC_PARTITIONS: Kind = structs(&[TEXT, all(I32S)]);
const CONFIGS: Kind = structs(&[TEXT, TEXT]);
const ASSIGNMENTS: Kind = structs(&[all(I32), all(I32S)]);

const PRODUCE: Shape = Shape {
    flexible: 9,
    fields: &[
        TEXT,
        all(I16),
        all(I32),
        all(structs(&[until(12, Kind::Text), since(13, UUID), all(structs(&[all(I32), all(Kind::Blob)]))])),
    ],
};

const FETCH: Shape = Shape {
    flexible: 12,
    fields: &[
        until(14, I32),
        all(I32),
        all(I32),
        all(I32),
        all(I8),
        since(7, I32),
        since(7, I32),
        all(structs(&[
            until(12, Kind::Text),
            since(13, UUID),
            all(structs(&[all(I32), since(9, I32), all(I64), since(12, I32), since(5, I64), all(I32)])),
        ])),
        since(7, structs(&[until(12, Kind::Text), since(13, UUID), all(I32S)])),
        since(11, Kind::Text),
    ],
};

const LIST_OFFSETS: Shape = Shape {
    flexible: 6,
    fields: &[
        all(I32),
        since(2, I8),
        all(structs(&[TEXT, all(structs(&[all(I32), since(4, I32), all(I64)]))])),
        since(10, I32),
    ],
};

const METADATA: Shape = Shape {
    flexible: 9,
    fields: &[all(structs(&[since(10, UUID), TEXT])), since(4, BOOL), within(8, 10, BOOL), since(8, BOOL)],
};

const OFFSET_COMMIT: Shape = Shape {
    flexible: 8,
    fields: &[
        TEXT,
        all(I32),
        TEXT,
        since(7, Kind::Text),
        within(2, 4, I64),
        all(structs(&[
            until(9, Kind::Text),
            since(10, UUID),
            all(structs(&[all(I32), all(I64), since(6, I32), TEXT])),
        ])),
    ],
};

const OFFSET_FETCH: Shape = Shape {
    flexible: 6,
    fields: &[
        until(7, Kind::Text),
        until(7, TOPIC_PARTITIONS),
        since(
            8,
            structs(&[
                TEXT,
                since(9, Kind::Text),
                since(9, I32),
                all(structs(&[until(9, Kind::Text), since(10, UUID), all(I32S)])),
            ]),
        ),
        since(7, BOOL),
    ],
};

const FIND_COORDINATOR: Shape = Shape { flexible: 3, fields: &[until(3, Kind::Text), since(1, I8), since(4, TEXTS)] };

const JOIN_GROUP: Shape = Shape {
    flexible: 6,
    fields: &[
        TEXT,
        all(I32),
        since(1, I32),
        TEXT,
        since(5, Kind::Text),
        TEXT,
        all(structs(&[TEXT, all(Kind::Blob)])),
        since(8, Kind::Text),
    ],
};

const HEARTBEAT: Shape = Shape { flexible: 4, fields: &[TEXT, all(I32), TEXT, since(3, Kind::Text)] };

const LEAVE_GROUP: Shape = Shape {
    flexible: 4,
    fields: &[TEXT, until(2, Kind::Text), since(3, structs(&[TEXT, TEXT, since(5, Kind::Text)]))],
};

const SYNC_GROUP: Shape = Shape {
    flexible: 4,
    fields: &[
        TEXT,
        all(I32),
        TEXT,
        since(3, Kind::Text),
        since(5, Kind::Text),
        since(5, Kind::Text),
        all(structs(&[TEXT, all(Kind::Blob)])),
    ],
};

const CREATE_TOPICS: Shape = Shape {
    flexible: 5,
    fields: &[all(structs(&[TEXT, all(I32), all(I16), all(ASSIGNMENTS), all(CONFIGS)])), all(I32), since(1, BOOL)],
};

const DELETE_TOPICS: Shape =
    Shape { flexible: 4, fields: &[since(6, structs(&[TEXT, all(UUID)])), until(5, TEXTS), all(I32)] };

const DELETE_RECORDS: Shape =
    Shape { flexible: 2, fields: &[all(structs(&[TEXT, all(structs(&[all(I32), all(I64)]))])), all(I32)] };

const INIT_PRODUCER_ID: Shape =
    Shape { flexible: 2, fields: &[TEXT, all(I32), since(3, I64), since(3, I16), since(6, BOOL), since(6, BOOL)] };

const OFFSET_FOR_LEADER_EPOCH: Shape = Shape {
    flexible: 4,
    fields: &[since(3, I32), all(structs(&[TEXT, all(structs(&[all(I32), since(2, I32), all(I32)]))]))],
};

const DESCRIBE_CONFIGS: Shape =
    Shape { flexible: 4, fields: &[all(structs(&[all(I8), TEXT, all(TEXTS)])), since(1, BOOL), since(3, BOOL)] };

const ALTER_CONFIGS: Shape = Shape { flexible: 2, fields: &[all(structs(&[all(I8), TEXT, all(CONFIGS)])), all(BOOL)] };

const INCREMENTAL_ALTER_CONFIGS: Shape =
    Shape { flexible: 1, fields: &[all(structs(&[all(I8), TEXT, all(structs(&[TEXT, all(I8), TEXT]))])), all(BOOL)] };

const CREATE_PARTITIONS: Shape =
    Shape { flexible: 2, fields: &[all(structs(&[TEXT, all(I32), all(structs(&[all(I32S)]))])), all(I32), all(BOOL)] };

const ELECT_LEADERS: Shape = Shape { flexible: 2, fields: &[since(1, I8), all(TOPIC_PARTITIONS), all(I32)] };

const DESCRIBE_TOPIC_PARTITIONS: Shape =
    Shape { flexible: 0, fields: &[all(structs(&[TEXT])), all(I32), all(Kind::Maybe(&[TEXT, all(I32)]))] };

const DESCRIBE_GROUPS: Shape = Shape { flexible: 5, fields: &[all(TEXTS), since(3, BOOL)] };

const SASL_HANDSHAKE: Shape = Shape { flexible: LAST, fields: &[TEXT] };

const DESCRIBE_LOG_DIRS: Shape = Shape { flexible: 2, fields: &[all(TOPIC_PARTITIONS)] };

const DESCRIBE_PRODUCERS: Shape = Shape { flexible: 0, fields: &[all(TOPIC_PARTITIONS)] };

const DELETE_GROUPS: Shape = Shape { flexible: 2, fields: &[all(TEXTS)] };

const LIST_PARTITION_REASSIGNMENTS: Shape = Shape { flexible: 0, fields: &[all(I32), all(TOPIC_PARTITIONS)] };

const DESCRIBE_CLUSTER: Shape = Shape { flexible: 0, fields: &[all(BOOL), since(1, I8), since(2, BOOL)] };

const LIST_GROUPS: Shape = Shape { flexible: 3, fields: &[since(4, TEXTS), since(5, TEXTS)] };

const API_VERSIONS: Shape = Shape { flexible: 3, fields: &[since(3, Kind::Text), since(3, Kind::Text)] };

const SASL_AUTHENTICATE: Shape = Shape { flexible: 2, fields: &[all(Kind::Blob)] };

const OFFSET_DELETE: Shape =
    Shape { flexible: LAST, fields: &[TEXT, all(structs(&[TEXT, all(structs(&[all(I32)]))]))] };

/// The shape of a request of this kind; `None` for those that are not served.
pub(crate) fn shape(key: ApiKey) -> Option<&'static Shape> {
    Some(match key {
        ApiKey::Produce => &PRODUCE,
        ApiKey::Fetch => &FETCH,
        ApiKey::ListOffsets => &LIST_OFFSETS,
        ApiKey::Metadata => &METADATA,
        ApiKey::OffsetCommit => &OFFSET_COMMIT,
        ApiKey::OffsetFetch => &OFFSET_FETCH,
        ApiKey::FindCoordinator => &FIND_COORDINATOR,
        ApiKey::JoinGroup => &JOIN_GROUP,
        ApiKey::Heartbeat => &HEARTBEAT,
        ApiKey::LeaveGroup => &LEAVE_GROUP,
        ApiKey::SyncGroup => &SYNC_GROUP,
        ApiKey::DescribeGroups => &DESCRIBE_GROUPS,
        ApiKey::ListGroups => &LIST_GROUPS,
        ApiKey::SaslHandshake => &SASL_HANDSHAKE,
        ApiKey::ApiVersions => &API_VERSIONS,
        ApiKey::CreateTopics => &CREATE_TOPICS,
        ApiKey::DeleteTopics => &DELETE_TOPICS,
        ApiKey::DeleteRecords => &DELETE_RECORDS,
        ApiKey::InitProducerId => &INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => &OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => &DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => &ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => &DESCRIBE_LOG_DIRS,
        ApiKey::SaslAuthenticate => &SASL_AUTHENTICATE,
        ApiKey::CreatePartitions => &CREATE_PARTITIONS,
        ApiKey::DeleteGroups => &DELETE_GROUPS,
        ApiKey::ElectLeaders => &ELECT_LEADERS,
        ApiKey::IncrementalAlterConfigs => &INCREMENTAL_ALTER_CONFIGS,
        ApiKey::ListPartitionReassignments => &LIST_PARTITION_REASSIGNMENTS,
        ApiKey::OffsetDelete => &OFFSET_DELETE,
        ApiKey::DescribeCluster => &DESCRIBE_CLUSTER,
        ApiKey::DescribeProducers => &DESCRIBE_PRODUCERS,
        ApiKey::DescribeTopicPartitions => &DESCRIBE_TOPIC_PARTITIONS,
        _ => return None,
    })
}
