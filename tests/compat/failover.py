"""Kafka clients while nodes are killed or restarted: `failover.py PATH/TO/dlog [CLASS_PATH of Java's checks]`.

Three nodes; an idempotent producer (acks=all) and a group go on meanwhile. A second member of the group comes and goes, so that
it rebalances under load, and sooner or later each node that coordinates the group is killed. Every acknowledged record must be read, in
order and under one offset, and the group must find its committed offsets again.
"""

import os
import subprocess
import sys
import time

from confluent_kafka import Consumer, Producer, libversion

from checks import report
from nodes import Nodes, Trouble

SECONDS, PARTITIONS = 24, 6
CLASS_PATH = sys.argv[2] if len(sys.argv) > 2 else None


def killing(nodes):
    kill, start = nodes.kill, nodes.start
    return [(4, kill, 1), (9, start, 1), (12, kill, 2), (17, start, 2), (19, kill, 3), (23, start, 3)]


def restarting(nodes):
    return [(3, nodes.restart, 1), (9, nodes.restart, 2), (15, nodes.restart, 3)]


class Group:
    """Members of a group, polled in turns; the second one comes and goes."""

    def __init__(self, servers, topic):
        self.servers, self.topic, self.read = servers, topic, {}
        self.members = [self.member()]
        self.changes = [3, 7, 10, 14, 18]

    def member(self):
        member = Consumer({"bootstrap.servers": self.servers, "group.id": self.topic, "auto.offset.reset": "earliest",
                           "session.timeout.ms": 6000, "auto.commit.interval.ms": 500})
        member.subscribe([self.topic])
        return member

    def poll(self, second, wait):
        if self.changes and second > self.changes[0]:
            self.changes.pop(0)
            self.members.pop().close() if len(self.members) == 2 else self.members.append(self.member())
        for member in self.members:
            record = member.poll(wait)
            while record is not None:
                if not record.error():
                    self.read.setdefault(record.partition(), []).append((record.offset(), int(record.value())))
                record = member.poll(0)

    def total(self):
        return sum(len({offset for offset, _ in records}) for records in self.read.values())

    def check(self):
        for partition, records in sorted(self.read.items()):
            values = dict(records)
            assert len(set(records)) == len(values), f"partition {partition}: an offset with two values"
            assert sorted(values) == list(range(len(values))), f"partition {partition}: offsets are missing"
            ordered = [values[offset] for offset in sorted(values)]
            assert ordered == sorted(set(ordered)), f"partition {partition}: out of order, or twice"

    def late(self):
        """How many records the group finds unread when it comes back."""
        [member.close() for member in self.members]
        again, found = self.member(), 0
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            record = again.poll(0.5)
            found += record is not None and not record.error()
        again.close()
        return found


def librdkafka(nodes, topic, trouble):
    sender = Producer({"bootstrap.servers": nodes.servers, "enable.idempotence": True, "linger.ms": 5})
    group, acked, failed, worst, last = Group(nodes.servers, topic), 0, [], 0, time.monotonic()

    def delivered(error, _):
        nonlocal acked, worst, last
        now = time.monotonic()
        worst, last = max(worst, now - last), now
        if error:
            failed.append(error)
        else:
            acked += 1

    started, sent, trouble = time.monotonic(), 0, Trouble(trouble)
    while (second := time.monotonic() - started) < SECONDS:
        for _ in range(10):
            sender.produce(topic, str(sent // PARTITIONS), partition=sent % PARTITIONS, on_delivery=delivered)
            sent += 1
        sender.poll(0)
        group.poll(second, 0.003)
    left = sender.flush(60)
    trouble.join(60)
    deadline = time.monotonic() + 60
    while group.total() < acked and time.monotonic() < deadline:
        group.poll(0, 0.2)
    group.check()
    assert not failed and not left, f"{len(failed)} records failed ({failed[:1]}), {left} are unknown"
    assert group.total() == acked == sent, f"{sent} sent, {acked} acknowledged, {group.total()} read"
    late = group.late()
    assert late == 0, f"{late} records were not committed"
    return f"{acked} records, longest pause {worst:.1f} s"


def java(nodes, topic, trouble):
    arguments = [nodes.servers, topic, str(PARTITIONS), str(SECONDS)]
    program = subprocess.Popen(["java", "-cp", CLASS_PATH, "Failover", *arguments], stdout=subprocess.PIPE, text=True)
    trouble = Trouble(trouble)
    try:
        said, _ = program.communicate(timeout=180)
    finally:
        program.kill()
    trouble.join(60)
    assert program.returncode == 0, said.strip() or f"it ended with {program.returncode}"
    return said.strip()


def java_version():
    return subprocess.run(["java", "-cp", CLASS_PATH, "Failover"], capture_output=True, text=True).stdout.strip()


def tried(client, trouble):
    with Nodes(sys.argv[1], int(os.environ.get("COMPAT_PORT", 29492)) + 100) as nodes:
        nodes.make_topic("failover", PARTITIONS)
        return client(nodes, "failover", trouble(nodes))


def main():
    clients = {librdkafka: libversion()[0]} | ({java: java_version()} if CLASS_PATH else {})
    cases = [("nodes are killed under load, groups rebalance", killing), ("a rolling restart under load", restarting)]
    return all([
        report(client.__name__, version, case, lambda: tried(client, trouble))
        for case, trouble in cases for client, version in clients.items()
    ])


sys.exit(0 if main() else 1)
