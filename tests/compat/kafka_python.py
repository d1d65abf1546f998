"""kafka-python against a server: `kafka_python.py host:port [check]`."""

import sys
import threading
import time

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.structs import OffsetAndMetadata

from checks import check, eventually, run, unique

SERVER = sys.argv[1]


def producer(**options):
    return KafkaProducer(bootstrap_servers=SERVER, **options)


def consumer(*topics, **options):
    options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 10000, **options}
    return KafkaConsumer(*topics, bootstrap_servers=SERVER, **options)


def make_topic(partitions=1, **configs):
    name = unique("kp")
    admin = KafkaAdminClient(bootstrap_servers=SERVER)
    admin.create_topics([NewTopic(name, partitions, -1, topic_configs=configs)])
    admin.close()
    return name


def take(reader, count):
    records = []
    for record in reader:
        records.append(record)
        if len(records) == count:
            break
    return records


@check
def produce_and_consume_with_all_codecs():
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        topic = make_topic()
        try:
            sender = producer(compression_type=codec, acks="all")
        except (AssertionError, RuntimeError):
            continue  # the library for this codec is not installed
        for i in range(200):
            sender.send(topic, key=b"k%d" % i, value=b"v%d" % i, headers=[("h", b"x")], timestamp_ms=1000 + i)
        sender.flush()
        sender.close()
        reader = consumer(topic)
        records = take(reader, 200)
        reader.close()
        assert [r.offset for r in records] == list(range(200)), "offsets are dense"
        assert records[7].key == b"k7" and records[7].value == b"v7" and records[7].timestamp == 1007
        assert list(records[7].headers) == [("h", b"x")]


@check
def acks_0_1_all():
    topic = make_topic()
    for acks in [0, 1, "all"]:
        sender = producer(acks=acks)
        for i in range(10):
            sender.send(topic, b"%s" % str(acks).encode())
        sender.flush()
        sender.close()
    reader = consumer(topic)
    assert len(take(reader, 30)) == 30
    reader.close()


@check
def offsets_by_time_and_end():
    topic = make_topic()
    sender = producer()
    for i in range(100):
        sender.send(topic, b"%d" % i, timestamp_ms=1_600_000_000_000 + 1000 * i)
    sender.flush()
    sender.close()
    reader = consumer()
    tp = TopicPartition(topic, 0)
    assert reader.beginning_offsets([tp])[tp] == 0
    assert reader.end_offsets([tp])[tp] == 100
    found = reader.offsets_for_times({tp: 1_600_000_000_000 + 50_500})[tp]
    assert found.offset == 51 and found.timestamp == 1_600_000_051_000, found
    assert reader.offsets_for_times({tp: 1_600_001_000_000})[tp] is None
    reader.close()


@check
def group_commits_and_goes_on():
    topic, group = make_topic(2), unique("g")
    sender = producer()
    for i in range(20):
        sender.send(topic, b"%d" % i, partition=i % 2)
    sender.flush()
    reader = consumer(topic, group_id=group, enable_auto_commit=False)
    assert len(take(reader, 20)) == 20
    reader.commit()
    reader.close()
    for i in range(4):
        sender.send(topic, b"more", partition=i % 2)
    sender.flush()
    sender.close()
    reader = consumer(topic, group_id=group)
    records = take(reader, 4)
    assert all(record.value == b"more" for record in records), "it goes on where the group stopped"
    reader.close()


@check
def group_rebalances_between_members():
    topic, group = make_topic(4), unique("g")
    readers = [consumer(topic, group_id=group, consumer_timeout_ms=500) for _ in range(2)]
    stop = threading.Event()

    def poll(reader):
        while not stop.is_set():
            reader.poll(timeout_ms=200)

    threads = [threading.Thread(target=poll, args=(reader,)) for reader in readers]
    [thread.start() for thread in threads]
    try:
        eventually("each has two partitions", lambda: [len(r.assignment()) for r in readers] == [2, 2], 40)
    finally:
        stop.set()
        [thread.join() for thread in threads]
    readers[1].close()
    eventually("one has all", lambda: readers[0].poll(timeout_ms=200) is not None and len(readers[0].assignment()) == 4, 40)
    readers[0].close()


@check
def static_member_returns_without_rebalance():
    topic, group = make_topic(2), unique("g")
    reader = consumer(topic, group_id=group, group_instance_id="one", consumer_timeout_ms=500)
    eventually("assigned", lambda: reader.poll(timeout_ms=200) is not None and len(reader.assignment()) == 2, 30)
    reader.close()
    again = consumer(topic, group_id=group, group_instance_id="one", consumer_timeout_ms=500)
    eventually("assigned again", lambda: again.poll(timeout_ms=200) is not None and len(again.assignment()) == 2, 30)
    again.close()


@check
def admin_topics_and_configs():
    admin = KafkaAdminClient(bootstrap_servers=SERVER)
    name = make_topic(3, **{"retention.ms": "3600000"})
    assert name in admin.list_topics()
    described = admin.describe_topics([name])[0]
    assert len(described["partitions"]) == 3, described
    admin.create_partitions({name: NewPartitions(5)})
    eventually("5 partitions", lambda: len(admin.describe_topics([name])[0]["partitions"]) == 5)
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    text = str(admin.describe_configs([resource]))
    assert "3600000" in text and "retention.ms" in text, text
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs={"retention.ms": "7200000"})])
    assert "7200000" in str(admin.describe_configs([resource]))
    admin.delete_topics([name])
    eventually("it is gone", lambda: name not in admin.list_topics())
    admin.close()


@check
def admin_groups():
    topic, group = make_topic(), unique("g")
    sender = producer()
    sender.send(topic, b"x").get(10)
    sender.close()
    reader = consumer(topic, group_id=group, enable_auto_commit=False)
    take(reader, 1)
    reader.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, "mine", -1)})
    admin = KafkaAdminClient(bootstrap_servers=SERVER)
    assert group in str(admin.list_groups() if hasattr(admin, "list_groups") else admin.list_consumer_groups())
    described = str(admin.describe_groups([group]) if hasattr(admin, "describe_groups") else admin.describe_consumer_groups([group]))
    assert "Stable" in described, described
    reader.close()
    admin.close()


@check
def a_missing_topic_is_made_on_demand():
    topic = unique("auto")
    sender = producer()
    assert sender.send(topic, b"x").get(20).offset == 0
    sender.close()


@check
def a_batch_that_is_too_large_is_refused():
    topic = make_topic(1, **{"max.message.bytes": "2000"})
    sender = producer(max_request_size=1 << 20)
    try:
        sender.send(topic, b"x" * 5000).get(20)
        raise AssertionError("it was taken")
    except Exception as error:
        if isinstance(error, AssertionError) or "MessageSizeTooLarge" not in repr(type(error)):
            raise
    sender.close()
    sender = producer()
    assert sender.send(topic, b"x" * 500).get(20).offset == 0
    sender.close()


@check
def log_append_time():
    topic = make_topic(1, **{"message.timestamp.type": "LogAppendTime"})
    sender = producer()
    before = int(time.time() * 1000) - 1000
    stored = sender.send(topic, b"x", timestamp_ms=1000).get(20)
    assert stored.timestamp >= before, stored
    sender.close()
    reader = consumer(topic)
    assert take(reader, 1)[0].timestamp >= before
    reader.close()


run("kafka-python", kafka.__version__, sys.argv[2] if len(sys.argv) > 2 else None)
