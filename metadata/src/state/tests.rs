//! Scenarios of the whole state machine.

use std::collections::BTreeMap;

use dlog_proto::{
    ClusterId, Epoch, EpochTable, Esn, Incarnation, Location, LogId, Lsn, NodeId, PartitionUid, ProcessId, RequestId,
    ShardId,
};

use super::*;

/// A state and the index of its next entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    pub(super) state: State,
}

impl Machine {
    /// A cluster of nodes 1.. with a shard each.
    pub(super) fn cluster(nodes: u16) -> Self {
        let mut machine = Self::default();
        machine.apply(Command::InitCluster(InitCluster { cluster: ClusterId(0xc1), created_ms: 1 }));
        for node in 1..=nodes {
            machine.register(node, u128::from(node), &[None]).unwrap();
        }
        machine
    }

    pub(super) fn apply(&mut self, command: Command) -> Response {
        self.apply_as(None, command)
    }

    pub(super) fn apply_as(&mut self, request: Option<RequestId>, command: Command) -> Response {
        let response = self.state.apply(self.state.revision() + 1, request, command);
        self.state.check_invariants().unwrap();
        response
    }

    pub(super) fn register(
        &mut self,
        node: u16,
        process: u128,
        shards: &[Option<u32>],
    ) -> Result<Registered, RegisterError> {
        match self.apply(Command::RegisterNode(registration(node, process, shards))) {
            Response::RegisterNode(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn create(&mut self, log: &str, partitions: u32, copies: u8) -> Result<LogCreated, CreateLogError> {
        match self.apply(Command::CreateLog(create_log(log, partitions, copies))) {
            Response::CreateLog(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn activate(&mut self, node: u16, process: u128, partitions: &[u64]) -> Activated {
        match self.apply(activate(node, process, partitions)) {
            Response::Activate(result) => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn decide(&mut self, decision: Decision) -> Result<Decided, DecideError> {
        match self.apply(Command::Decide(Decide { decisions: vec![decision] })) {
            Response::Decide(result) => result.unwrap().remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn trim(&mut self, partition: u64, upto: &str) -> Result<Lsn, TrimError> {
        let item = TrimItem { partition: PartitionUid(partition), upto: upto.parse().unwrap() };
        match self.apply(Command::Trim(Trim { items: vec![item] })) {
            Response::Trim(result) => result.unwrap().remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn cover(&mut self, partition: u64, epoch: u32) -> Result<Epoch, CoverError> {
        let items = vec![CoverItem { partition: PartitionUid(partition), epoch: Epoch(epoch) }];
        match self.apply(Command::Cover(Cover { items })) {
            Response::Cover(result) => result.unwrap().remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn record(&mut self, item: UnderReplicatedItem) -> Result<(), UnderReplicatedError> {
        match self.apply(Command::UnderReplicated(RecordUnderReplicated { items: vec![item] })) {
            Response::UnderReplicated(result) => result.unwrap().remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn table(&self, partition: u64) -> EpochTable {
        self.state.table(PartitionUid(partition)).unwrap()
    }
}

pub(super) fn log_id(log: &str) -> LogId {
    log.parse().unwrap()
}

pub(super) fn registration(node: u16, process: u128, shards: &[Option<u32>]) -> RegisterNode {
    let shard = |(index, incarnation): (usize, &Option<u32>)| ShardRegistration {
        index: index as u16,
        incarnation: incarnation.map(Incarnation),
        unclean: false,
    };
    RegisterNode {
        node: NodeId(node),
        address: format!("host{node}:9092"),
        http: String::new(),
        roles: Roles::ALL,
        location: Location::default(),
        process: ProcessId(process),
        cores: 4,
        weight: 1,
        shards: shards.iter().enumerate().map(shard).collect(),
    }
}

pub(super) fn create_log(log: &str, partitions: u32, copies: u8) -> CreateLog {
    CreateLog { log: log_id(log), partitions, attributes: LogAttributes::replicated(copies), created_ms: 5 }
}

pub(super) fn activate(node: u16, process: u128, partitions: &[u64]) -> Command {
    let partitions = partitions.iter().copied().map(PartitionUid).collect();
    Command::Activate(Activate { sequencer: NodeId(node), process: ProcessId(process), partitions, planned: false })
}

pub(super) fn decision(partition: u64, epoch: u32, last_esn: u32, recoverer: u32) -> Decision {
    Decision {
        partition: PartitionUid(partition),
        epoch: Epoch(epoch),
        last_esn: Esn(last_esn),
        authoritative: true,
        recoverer: Epoch(recoverer),
        under_replicated: vec![],
    }
}

#[test]
fn the_first_cluster_id_stays() {
    let mut machine = Machine::cluster(0);
    let other = Command::InitCluster(InitCluster { cluster: ClusterId(0xc2), created_ms: 2 });
    assert_eq!(machine.apply(other), Response::InitCluster(ClusterId(0xc1)));
    let mut empty = Machine::default();
    assert_eq!(empty.register(1, 1, &[]), Err(RegisterError::NoCluster));
}

#[test]
fn disks_get_incarnations_and_keep_them() {
    let mut machine = Machine::cluster(2);
    let incarnation = |registered: &Registered, at: usize| registered.shards[at].incarnation;
    assert_eq!(incarnation(&machine.register(1, 11, &[Some(1)]).unwrap(), 0), Incarnation(1));
    // A second disk joins, the first is replaced by a fresh one.
    assert_eq!(incarnation(&machine.register(1, 12, &[Some(1), None]).unwrap(), 1), Incarnation(3));
    assert_eq!(incarnation(&machine.register(1, 13, &[None, Some(3)]).unwrap(), 0), Incarnation(4));
    assert!(machine.state.is_lost(ShardId::new(1, 0), Incarnation(1)));
    let shard = ShardId::new(1, 0);
    let other = RegisterError::OtherDisk { shard, found: Incarnation(1), current: Incarnation(4) };
    assert_eq!(machine.register(1, 14, &[Some(1), Some(3)]), Err(other), "the old disk came back");
    let foreign = RegisterError::ForeignDisk { shard: ShardId::new(3, 0), found: Incarnation(2) };
    assert_eq!(machine.register(3, 3, &[Some(2)]), Err(foreign), "a disk of another node");
    assert_eq!(machine.state.node(NodeId(1)).unwrap().process, ProcessId(13), "refusals change nothing");
}

#[test]
fn a_shard_that_lost_unflushed_blocks_is_incomplete_from_then_on() {
    let mut machine = Machine::cluster(1);
    let mut unclean = registration(1, 2, &[Some(1)]);
    unclean.shards[0].unclean = true;
    let Response::RegisterNode(Ok(registered)) = machine.apply(Command::RegisterNode(unclean)) else { panic!() };
    let revision = machine.state.revision();
    assert_eq!(registered.shards[0].incomplete_before, revision);
    let clean = machine.register(1, 3, &[Some(1)]).unwrap();
    assert_eq!(clean.shards[0].incomplete_before, revision, "a later clean start brings nothing back");
    assert_eq!(machine.register(1, 4, &[None]).unwrap().shards[0].incomplete_before, 0);
}

#[test]
fn bad_registrations_are_refused() {
    let mut machine = Machine::cluster(0);
    let mut refused = |change: fn(&mut RegisterNode)| {
        let mut command = registration(1, 1, &[None]);
        change(&mut command);
        match machine.apply(Command::RegisterNode(command)) {
            Response::RegisterNode(Err(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(|c| c.node = NodeId(0)).contains("not 0"));
    assert!(refused(|c| c.address = "nowhere".to_owned()).contains("host:port"));
    assert!(refused(|c| c.http = "x".repeat(1000) + ":1").len() < 200);
    assert!(refused(|c| c.shards.push(c.shards[0].clone())).contains("n1s0 is registered twice"));
    assert!(refused(|c| c.shards = vec![c.shards[0].clone(); 257]).contains("at most 256 shards, not 257"));
}

#[test]
fn logs_are_made_changed_and_deleted() {
    let mut machine = Machine::cluster(3);
    let created = machine.create("demo/a", 3, 3).unwrap();
    assert_eq!((created.first_partition, created.partitions), (PartitionUid(1), 3));
    assert_eq!(machine.create("demo/a", 1, 1), Err(CreateLogError::Exists(log_id("demo/a"))));
    let more = Command::CreatePartitions(CreatePartitions { log: log_id("demo/a"), partitions: 5 });
    let Response::CreatePartitions(Ok(created)) = machine.apply(more.clone()) else { panic!() };
    assert_eq!((created.first_partition, created.partitions), (PartitionUid(4), 2));
    let Response::CreatePartitions(Err(error)) = machine.apply(more) else { panic!() };
    assert!(error.to_string().contains("they can only become more"));
    let before = machine.state.log(&log_id("demo/a")).unwrap().config_version;
    let changes = BTreeMap::from([("retention.ms".to_owned(), Some("5".to_owned()))]);
    let set = Command::SetAttributes(SetAttributes { log: log_id("demo/a"), changes });
    assert_eq!(machine.apply(set.clone()), Response::SetAttributes(Ok(())));
    let info = machine.state.log(&log_id("demo/a")).unwrap();
    assert_eq!((info.attributes.retention_ms(), info.config_version > before), (Some(5), true));
    machine.activate(1, 1, &[1, 2]);
    let delete = Command::DeleteLog(DeleteLog { log: log_id("demo/a"), deleted_ms: 9 });
    assert!(matches!(machine.apply(delete.clone()), Response::DeleteLog(Ok(_))));
    assert_eq!(machine.apply(delete), Response::DeleteLog(Err(UnknownLog(log_id("demo/a")))));
    assert!(matches!(machine.apply(set), Response::SetAttributes(Err(SetAttributesError::Unknown(_)))));
    let (_, deleted) = machine.state.deleted_logs().next().unwrap();
    assert_eq!((deleted.partitions.len(), deleted.deleted_ms), (5, 9));
    assert_eq!((machine.state.nodesets.len(), machine.state.replications.len()), (0, 0));
    assert_eq!(machine.create("demo/a", 1, 1).unwrap().first_partition, PartitionUid(6), "uids are never reused");
}

#[test]
fn impossible_logs_are_refused() {
    let mut machine = Machine::cluster(2);
    let mut error = |partitions, copies| machine.create("demo/x", partitions, copies).unwrap_err().to_string();
    assert!(error(0, 1).contains("1 to 100000 partitions, not 0"));
    assert!(error(100_001, 1).contains("not 100001"));
    assert!(error(1, 9).contains("9 nodes with writable disks are needed and there are 2"), "{}", error(1, 9));
    assert!(error(1, 0).contains("1 to 16, not 0"));
    let changes = BTreeMap::from([("replication_factor".to_owned(), Some("3".to_owned()))]);
    machine.create("demo/y", 1, 2).unwrap();
    let set = Command::SetAttributes(SetAttributes { log: log_id("demo/y"), changes });
    assert!(matches!(machine.apply(set), Response::SetAttributes(Err(SetAttributesError::NotEnough { .. }))));
}

#[test]
fn names_that_kafka_would_confuse_are_refused() {
    let mut machine = Machine::cluster(1);
    for log in ["default/plain", "default/shop.orders", "a/b.c", "team.x/y"] {
        machine.create(log, 1, 1).unwrap();
    }
    let mut refused = |log: &str| machine.create(log, 1, 1).unwrap_err().to_string();
    assert!(refused("shop/anything").contains("default/shop.orders"));
    assert!(refused("default/a.z").contains("'a' is a namespace"));
    assert!(refused("default/team.x.z").contains("'team.x' is a namespace"));
    assert!(refused("default/default.z").contains("'default' is a namespace"));
    assert!(refused("a.b/c").contains("same Kafka topic 'a.b.c'"));
    for (topic, log) in
        [("plain", "plain"), ("shop.orders", "shop.orders"), ("a.b.c", "a/b.c"), ("team.x.y", "team.x/y")]
    {
        assert_eq!(machine.state.log_of_topic(topic), Some(log_id(log)));
        assert_eq!(topic_of(&log_id(log)), topic);
    }
    assert_eq!(machine.state.log_of_topic("a.b"), None);
    assert_eq!(machine.state.log_for_topic("a.new"), Some(log_id("a/new")));
    assert_eq!(machine.state.log_for_topic("b.new"), Some(log_id("default/b.new")));
    assert_eq!(machine.state.log_for_topic("no such"), None);
    machine.apply(Command::DeleteLog(DeleteLog { log: log_id("a/b.c"), deleted_ms: 0 }));
    machine.create("default/a.z", 1, 1).unwrap();
}

#[test]
fn epochs_have_one_sequencer_each_and_stale_processes_get_none() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 2, 3).unwrap();
    let first = machine.activate(1, 1, &[1, 2]);
    assert_eq!(first.results, [1, 2].map(|uid| Ok(Activation { partition: PartitionUid(uid), epoch: Epoch(1) })));
    let table = &first.tables.0[0];
    assert_eq!((table.epochs.len(), table.epochs[0].base_offset.unwrap().0, table.epochs[0].nodeset.len()), (1, 0, 3));
    machine.register(1, 77, &[Some(1)]).unwrap();
    let stale = Err(ActivateError::Stale { node: NodeId(1), registered: ProcessId(77) });
    assert_eq!(machine.activate(1, 1, &[1]).results, [stale]);
    let second = machine.activate(2, 2, &[1, 1, 9]);
    assert_eq!(second.results[0], Ok(Activation { partition: PartitionUid(1), epoch: Epoch(2) }));
    assert_eq!(second.results[1], Err(ActivateError::Duplicate(PartitionUid(1))));
    assert_eq!(second.results[2], Err(ActivateError::Partition(PartitionError::Unknown(PartitionUid(9)))));
    assert_eq!(second.tables.0[0].epochs.len(), 2, "from the oldest undecided epoch on");
    assert_eq!(second.tables.0[0].epochs[1].base_offset, None);
    assert!(matches!(machine.activate(8, 8, &[1]).results[0], Err(ActivateError::NotSequencer { .. })));
    let too_many = activate(1, 77, &vec![1; 1001]);
    assert_eq!(machine.apply(too_many), Response::Activate(Err(BatchTooLong(1001))));
}

#[test]
fn a_retried_activation_gives_the_same_epoch() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 1, 3).unwrap();
    let request = RequestId { process: ProcessId(1), counter: 1 };
    let first = machine.apply_as(Some(request), activate(1, 1, &[1]));
    let snapshot = machine.state.clone();
    let again = machine.apply_as(Some(request), activate(1, 1, &[1]));
    let epochs = |response: &Response| match response {
        Response::Activate(Ok(activated)) => (activated.results.clone(), activated.tables.0[0].epochs.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(epochs(&first), epochs(&again));
    assert_eq!(machine.state.partitions, snapshot.partitions);
    // Another start of the node is another request, whatever its counter (trap C16).
    machine.register(1, 2, &[Some(1)]).unwrap();
    let other = RequestId { process: ProcessId(2), counter: 1 };
    let Response::Activate(Ok(other)) = machine.apply_as(Some(other), activate(1, 2, &[1])) else { panic!() };
    assert_eq!(other.results[0].as_ref().unwrap().epoch, Epoch(2));
}

#[test]
fn an_activation_that_is_answered_late_has_no_table_when_its_epoch_has_left() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 1, 3).unwrap();
    (1..=3).for_each(|node| drop(machine.activate(node, node.into(), &[1])));
    machine.decide(decision(1, 1, 7, 3)).unwrap();
    let upto = |machine: &Machine, epoch| {
        let table = machine.state.table_upto(PartitionUid(1), Epoch(epoch));
        table.map(|table| table.epochs.iter().map(|entry| entry.epoch.0).collect::<Vec<_>>())
    };
    assert_eq!(upto(&machine, 2), Some(vec![1, 2]));
    machine.decide(decision(1, 2, 0, 3)).unwrap();
    assert_eq!((upto(&machine, 2), upto(&machine, 3)), (None, Some(vec![1, 3])), "e1 is nobody's to go on with");
}

#[test]
fn c16_no_epoch_has_two_owners_though_a_restarted_process_counts_from_one_again() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 1, 3).unwrap();
    let mut owners: BTreeMap<Epoch, ProcessId> = BTreeMap::new();
    let mut activate_as = |machine: &mut Machine, process: u128| {
        let request = RequestId { process: ProcessId(process), counter: 1 };
        let response = machine.apply_as(Some(request), activate(1, process, &[1]));
        let Response::Activate(Ok(activated)) = response else { panic!("{response:?}") };
        let epoch = activated.results[0].as_ref().unwrap().epoch;
        let owner = *owners.entry(epoch).or_insert(ProcessId(process));
        assert_eq!(owner, ProcessId(process), "{epoch} was given to another process before");
        epoch
    };
    assert_eq!(activate_as(&mut machine, 1), Epoch(1));
    machine.register(1, 2, &[Some(1)]).unwrap();
    assert_eq!(activate_as(&mut machine, 2), Epoch(2), "its first request, as the one of the process before it was");
    assert_eq!(activate_as(&mut machine, 1), Epoch(1), "from the past: the old answer, and nothing new");
    let newest = machine.state.partition(PartitionUid(1)).unwrap().newest();
    assert_eq!(newest, Some((Epoch(2), NodeId(1), ProcessId(2))));
}

#[test]
fn decisions_close_epochs_and_say_what_lacks_copies() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 1, 3).unwrap();
    machine.activate(1, 1, &[1]);
    let (epoch, shard, incarnation) = (Epoch(1), ShardId::new(3, 0), Incarnation(3));
    let open = UnderReplicatedChange::Open { from: Esn(5) };
    let item = UnderReplicatedItem { partition: PartitionUid(1), epoch, shard, incarnation, change: open };
    machine.record(item).unwrap();
    let stranger = UnderReplicatedItem { incarnation: Incarnation(2), ..item };
    assert!(matches!(machine.record(stranger), Err(UnderReplicatedError::NotMember { .. })));
    machine.activate(2, 2, &[1]);
    let mut ending = decision(1, 1, 10, 2);
    ending.under_replicated =
        vec![MissingCopies { shard: ShardId::new(2, 0), incarnation: Incarnation(2), from: Esn(9), to: Esn(11) }];
    assert!(matches!(machine.decide(ending.clone()), Err(DecideError::BadRange { .. })));
    ending.under_replicated[0].to = Esn(10);
    assert_eq!(machine.decide(ending).unwrap().end_offset.unwrap().0, 10);
    let missing = machine.state.under_replicated(PartitionUid(1)).unwrap();
    let said: Vec<_> = missing.iter().map(|(at, r)| (at.shard.node.0, r[0].from.0, r[0].to.unwrap().0)).collect();
    assert_eq!(said, [(2, 9, 10), (3, 5, 10)], "open ranges end with their epoch");
    assert!(matches!(machine.record(item), Err(UnderReplicatedError::NotOpen { .. })));
    machine.record(UnderReplicatedItem { change: UnderReplicatedChange::Close { to: Esn(7) }, ..item }).unwrap();
    let repaired = UnderReplicatedChange::Repaired { from: Esn(1), to: Esn(10) };
    machine.record(UnderReplicatedItem { change: repaired, ..item }).unwrap();
    assert_eq!(machine.state.under_replicated(PartitionUid(1)).unwrap().iter().count(), 1);
    machine.trim(1, "e1n10").unwrap();
    assert!(machine.state.under_replicated(PartitionUid(1)).is_none());
    assert_eq!((machine.table(1).epochs.len(), machine.table(1).trim), (2, "e1n10".parse().unwrap()));
    machine.trim(1, "e2n1").unwrap();
    assert_eq!(machine.table(1).epochs.len(), 2, "what epoch 1 tells of producers is not known from anywhere else");
    let nodesets = machine.state.nodesets.len();
    assert_eq!(machine.cover(1, 2), Ok(Epoch(2)));
    assert_eq!((machine.table(1).epochs.len(), machine.table(1).covered), (1, Epoch(2)));
    assert!(machine.state.nodesets.len() <= nodesets);
    assert_eq!(machine.cover(1, 1), Ok(Epoch(2)), "from the past");
    assert!(matches!(machine.cover(1, 3), Err(CoverError::Gone { .. })));
    assert!(matches!(machine.cover(9, 1), Err(CoverError::Partition(_))));
}

#[test]
fn a_damaged_shard_is_noted_until_its_disk_is_another() {
    let mut machine = Machine::cluster(1);
    let damaged = |incarnation| Command::Damaged(Damaged { shard: ShardId::new(1, 0), incarnation });
    let Response::Damaged(Ok(before)) = machine.apply(damaged(Incarnation(1))) else { panic!() };
    assert_eq!(before, machine.state.revision());
    let registered = machine.register(1, 2, &[Some(1)]).unwrap();
    assert_eq!(registered.shards[0].damaged_before, before, "a start forgets nothing");
    assert_eq!(machine.register(1, 3, &[None]).unwrap().shards[0].damaged_before, 0, "a new disk lacks nothing");
    let stranger =
        Response::Damaged(Err(DamagedError::NotRegistered { shard: ShardId::new(1, 0), incarnation: Incarnation(1) }));
    assert_eq!(machine.apply(damaged(Incarnation(1))), stranger, "the disk before tells late");
}

#[test]
fn what_a_disk_has_lost_is_on_record_until_it_is_repaired_or_trimmed() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 1, 3).unwrap();
    machine.activate(1, 1, &[1]);
    let lost = |from, to| UnderReplicatedItem {
        partition: PartitionUid(1),
        epoch: Epoch(1),
        shard: ShardId::new(3, 0),
        incarnation: Incarnation(3),
        change: UnderReplicatedChange::Lost { from: Esn(from), to: Esn(to) },
    };
    assert!(matches!(machine.record(lost(2, 3)), Err(UnderReplicatedError::NotDecided { .. })));
    machine.activate(2, 2, &[1]);
    machine.decide(decision(1, 1, 10, 2)).unwrap();
    assert!(matches!(machine.record(lost(3, 2)), Err(UnderReplicatedError::BadRange { .. })));
    let stranger = UnderReplicatedItem { incarnation: Incarnation(2), ..lost(2, 3) };
    assert!(matches!(machine.record(stranger), Err(UnderReplicatedError::NotMember { .. })));
    let ranges = |machine: &Machine| -> Vec<(u32, u32)> {
        let missing = machine.state.under_replicated(PartitionUid(1));
        let ranges = missing.into_iter().flat_map(|missing| missing.iter().flat_map(|(_, ranges)| ranges.to_vec()));
        ranges.map(|range| (range.from.0, range.to.unwrap().0)).collect()
    };
    // Told of twice, it stands once; what lies beyond the end was never part of the epoch.
    for item in [lost(2, 3), lost(2, 3), lost(9, 12), lost(11, 12)] {
        machine.record(item).unwrap();
        machine.state.check_invariants().unwrap();
    }
    assert_eq!(ranges(&machine), [(2, 3), (9, 10)]);
    machine.trim(1, "e1n2").unwrap();
    machine.record(lost(1, 3)).unwrap();
    assert_eq!(ranges(&machine), [(3, 3), (9, 10)], "what is trimmed does not come back");
    machine.trim(1, "e1n10").unwrap();
    machine.activate(1, 1, &[1]);
    machine.decide(decision(1, 2, 4, 3)).unwrap();
    machine.trim(1, "e2n4").unwrap();
    machine.record(lost(2, 3)).unwrap();
    assert_eq!(ranges(&machine), [], "and an epoch that left the table needs nothing");
}

#[test]
fn changed_attributes_and_shards_reach_the_next_epoch_only() {
    let mut machine = Machine::cluster(3);
    machine.create("demo/a", 1, 2).unwrap();
    machine.activate(1, 1, &[1]);
    let changes = BTreeMap::from([("replication_factor".to_owned(), Some("3".to_owned()))]);
    machine.apply(Command::SetAttributes(SetAttributes { log: log_id("demo/a"), changes }));
    machine.register(4, 4, &[None]).unwrap();
    // Node 3 came back without its disk: it takes part no more, but old nodesets name it.
    machine.register(3, 33, &[]).unwrap();
    machine.activate(1, 1, &[1]);
    let table = machine.table(1);
    let nodes = |at: usize| table.epochs[at].nodeset.members().iter().map(|m| m.shard.node.0).collect::<Vec<_>>();
    assert_eq!((nodes(0), nodes(1)), (vec![1, 2, 3], vec![1, 2, 4]));
    assert_eq!([0, 1].map(|at: usize| table.epochs[at].replication.factor()), [2, 3]);
    machine.register(4, 44, &[]).unwrap();
    let refused = machine.activate(1, 1, &[1]).results.remove(0).unwrap_err();
    assert!(refused.to_string().contains("3 nodes with writable disks are needed and there are 2"), "{refused}");
}

#[test]
fn producer_ids_are_given_once() {
    let mut machine = Machine::cluster(0);
    let mut take = |count| machine.apply(Command::AllocateProducerIds(AllocateProducerIds { count }));
    assert_eq!(take(1000), Response::AllocateProducerIds(Ok(0..1000)));
    assert_eq!(take(1), Response::AllocateProducerIds(Ok(1000..1001)));
    assert_eq!(take(0), Response::AllocateProducerIds(Err(ProducerIdsError::Count(0))));
}

#[test]
fn changes_name_what_is_not_as_it_was() {
    let mut machine = Machine::cluster(3);
    let start = machine.state.take_changes();
    assert!(start.cluster && start.nodes.len() == 3);
    machine.create("demo/a", 2, 3).unwrap();
    machine.activate(1, 1, &[2]);
    let changes = machine.state.take_changes();
    assert_eq!((changes.logs.len(), changes.partitions.len(), changes.nodes.len()), (1, 2, 0));
    machine.trim(2, "e1n0").unwrap();
    machine.trim(2, "e1n0").unwrap();
    assert_eq!(machine.state.take_changes().partitions.len(), 1);
    machine.trim(2, "e1n0").unwrap();
    assert!(machine.state.take_changes().is_empty(), "nothing new, nothing changed");
}

#[test]
fn questions_are_answered_in_pages() {
    let mut machine = Machine::cluster(3);
    for name in ["a/1", "a/2", "b/1", "b/2", "b/3"] {
        machine.create(name, 1, 1).unwrap();
    }
    let page = |namespace: Option<&str>, after: Option<&str>| {
        let query = Query::Logs { namespace: namespace.map(str::to_owned), after: after.map(log_id), limit: 2 };
        match machine.state.answer(&query).unwrap() {
            QueryAnswer::Logs { logs, more } => (logs.iter().map(|l| l.log.to_string()).collect::<Vec<_>>(), more),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page(None, None), (vec!["a/1".to_owned(), "a/2".to_owned()], true));
    assert_eq!(page(None, Some("b/1")), (vec!["b/2".to_owned(), "b/3".to_owned()], false));
    assert_eq!(page(Some("b"), None), (vec!["b/1".to_owned(), "b/2".to_owned()], true));
    assert_eq!(page(None, Some("b/3")), (vec![], false));
    let none = Query::Tables { partitions: vec![] };
    assert_eq!(machine.state.answer(&none), Err(QueryError::Limit(0)));
    let tables = Query::Tables { partitions: vec![PartitionUid(1), PartitionUid(99)] };
    let Ok(QueryAnswer::Tables(tables)) = machine.state.answer(&tables) else { panic!() };
    assert_eq!(tables.0.len(), 1, "what is not there is left out");
}
