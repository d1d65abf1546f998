"""Consumers that read from the replica in their rack (KIP-392): `racks.py PATH/TO/dlog [CLASS_PATH of Java's checks]`.

Three nodes in three racks, and a consumer in each rack: it must read everything from the node in its rack, whoever leads. Then that
node is killed, and the consumer must go on with what is written afterwards.
"""

import json
import os
import subprocess
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition, libversion

from checks import report
from nodes import Nodes

RACKS = {1: "a", 2: "b", 3: "c"}
PARTITIONS, RECORDS = 3, 3000
CLASS_PATH = sys.argv[2] if len(sys.argv) > 2 else None


def send(nodes, topic, first, count):
    sender, failed = Producer({"bootstrap.servers": nodes.servers, "linger.ms": 5}), []
    for value in range(first, first + count):
        sender.produce(topic, str(value), partition=value % PARTITIONS, on_delivery=lambda error, _: error and failed.append(error))
        sender.poll(0)
    assert sender.flush(60) == 0 and not failed, f"{len(failed)} records failed ({failed[:1]})"


class Librdkafka:
    """A consumer in a rack, and what it says of where it reads from."""

    version = libversion()[0]

    def __init__(self, servers, topic, rack):
        self.read, self.sources, self.lock = [], {}, threading.Lock()
        settings = {"bootstrap.servers": servers, "group.id": f"{topic}-{rack}", "client.rack": rack, "auto.offset.reset": "earliest",
                    "statistics.interval.ms": 200, "stats_cb": self.told, "topic.metadata.refresh.interval.ms": 2000}
        self.consumer, self.topic = Consumer(settings), topic
        self.consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])

    def told(self, text):
        partitions = json.loads(text)["topics"].get(self.topic, {}).get("partitions", {})
        self.sources = {int(number): told["broker"] for number, told in partitions.items() if int(number) >= 0}

    def poll(self):
        record = self.consumer.poll(0.2)
        while record is not None:
            if not record.error():
                self.read.append(int(record.value()))
            record = self.consumer.poll(0)

    def close(self):
        self.consumer.close()


class Java:
    """The same in a process of its own: it prints what it has read, and from where, whenever either changes."""

    version = CLASS_PATH and subprocess.run(["java", "-cp", CLASS_PATH, "Racks"], capture_output=True, text=True).stdout.strip()

    def __init__(self, servers, topic, rack):
        self.read, self.sources = [], {}
        command = ["java", "-cp", CLASS_PATH, "Racks", servers, topic, str(PARTITIONS), rack]
        self.program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.program.stdout:
            word, *numbers = line.split()
            if word == "read":
                self.read += map(int, numbers)
            elif word == "from":
                self.sources = {partition: int(node) for partition, node in enumerate(numbers)}

    def poll(self):
        time.sleep(0.2)

    def close(self):
        self.program.kill()
        self.program.wait()


def reads(client, what, wanted, done, seconds=60):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: {len(client.read)} of {wanted} records, from {client.sources}"
        client.poll()


def tried(nodes, kind, topic):
    nodes.make_topic(topic, PARTITIONS)
    send(nodes, topic, 0, RECORDS)
    for node, rack in RACKS.items():
        client = kind(nodes.servers, topic, rack)
        try:
            # It learns of the replica with its first fetch from a leader, which gives it nothing.
            there = lambda: len(client.sources) == PARTITIONS and set(client.sources.values()) == {node}
            reads(client, f"rack {rack}", RECORDS, lambda: len(client.read) >= RECORDS and there())
            assert sorted(client.read) == list(range(RECORDS)), "each record once"
        finally:
            client.close()
    client = kind(nodes.servers, topic, RACKS[3])
    try:
        reads(client, "before the replica dies", RECORDS, lambda: len(client.read) >= RECORDS)
        nodes.kill(3)
        send(nodes, topic, RECORDS, RECORDS)
        reads(client, "after the replica died", 2 * RECORDS, lambda: len(client.read) >= 2 * RECORDS)
        assert sorted(client.read) == list(range(2 * RECORDS)), "each record once"
    finally:
        client.close()
    nodes.start(3)
    nodes.wait_for(3)


def main():
    def reading(kind):
        with Nodes(sys.argv[1], int(os.environ.get("COMPAT_PORT", 29492)) + 100, RACKS) as nodes:
            tried(nodes, kind, "racks")

    case = "reads from the replica in its rack, and elsewhere when that dies"
    kinds = [Librdkafka, Java] if CLASS_PATH else [Librdkafka]
    return all([report(kind.__name__.lower(), kind.version, case, lambda: reading(kind)) for kind in kinds])


sys.exit(0 if main() else 1)
