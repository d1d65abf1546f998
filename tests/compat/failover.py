"""Kafka clients while nodes are killed: `failover.py PATH/TO/dlog`.

Three nodes; an idempotent producer (acks=all) and a consumer group go on while one node after the other is killed with -9 and started
again. Every acknowledged record must be read once per group and in order, and a group must find its committed offsets again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

DLOG, BASE = os.path.realpath(sys.argv[1]), int(os.environ.get("COMPAT_PORT", 29492)) + 100
SECONDS, PARTITIONS = 24, 6
WORK = tempfile.mkdtemp()
PORTS = {node: BASE + node - 1 for node in (1, 2, 3)}
SERVERS = ",".join(f"127.0.0.1:{port}" for port in PORTS.values())
CLUSTER = ",".join(f"{node}=127.0.0.1:{port}" for node, port in PORTS.items())
running = {}


def start(node):
    log = open(f"{WORK}/node{node}.log", "ab")
    running[node] = subprocess.Popen(
        [DLOG, "--node-id", str(node), "--data-dir", f"{WORK}/data{node}", "--cluster-nodes", CLUSTER]
        + ["--http", f"127.0.0.1:{BASE + 100 + node}"],
        stderr=log,
        stdout=log,
    )


def kill(node):
    running[node].kill()
    running[node].wait()


def wait_for_brokers(count):
    admin = AdminClient({"bootstrap.servers": SERVERS})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if len(admin.list_topics(timeout=5).brokers) == count:
                return admin
        except Exception:
            pass
        time.sleep(0.2)
    raise SystemExit(f"there are not {count} brokers after 60 s")


def main():
    [start(node) for node in PORTS]
    admin = wait_for_brokers(3)
    admin.create_topics([NewTopic("failover", PARTITIONS, 3)])["failover"].result(20)
    sender = Producer({"bootstrap.servers": SERVERS, "enable.idempotence": True, "linger.ms": 5})
    reader = Consumer({"bootstrap.servers": SERVERS, "group.id": "failover", "auto.offset.reset": "earliest",
                       "session.timeout.ms": 6000, "auto.commit.interval.ms": 500})
    reader.subscribe(["failover"])
    acked, failed, read, worst, last = [0], [], {}, 0, time.monotonic()

    def delivered(error, message):
        nonlocal worst, last
        now = time.monotonic()
        worst, last = max(worst, now - last), now
        failed.append(error) if error else acked.__setitem__(0, acked[0] + 1)

    def take(record):
        if record is not None and not record.error():
            read.setdefault(record.partition(), []).append((record.offset(), int(record.value())))

    started, sent, events = time.monotonic(), 0, [(4, kill, 1), (9, start, 1), (12, kill, 2), (17, start, 2), (19, kill, 3)]
    while time.monotonic() - started < SECONDS:
        if events and time.monotonic() - started > events[0][0]:
            _, act, node = events.pop(0)
            act(node)
        for _ in range(10):
            sender.produce("failover", str(sent // PARTITIONS), partition=sent % PARTITIONS, on_delivery=delivered)
            sent += 1
        sender.poll(0)
        take(reader.poll(0.005))
        while (record := reader.poll(0)) is not None:
            take(record)
    left = sender.flush(60)
    start(3)
    deadline = time.monotonic() + 60
    while sum(len({o for o, _ in records}) for records in read.values()) < acked[0] and time.monotonic() < deadline:
        take(reader.poll(0.5))
    print(f"{sent} sent, {acked[0]} acknowledged, {len(failed)} failed, {left} unknown; longest pause {worst:.2f} s")
    wrong = 0
    for partition, records in sorted(read.items()):
        offsets = sorted({offset for offset, _ in records})
        values = [dict(records)[offset] for offset in offsets]
        if offsets != list(range(len(offsets))) or values != sorted(set(values)):
            wrong += 1
            print(f"partition {partition}: offsets or order are wrong")
    total = sum(len({o for o, _ in records}) for records in read.values())
    reread = sum(len(records) for records in read.values()) - total
    print(f"{total} records read, {reread} of them again after a rebalance")
    reader.close()
    again = Consumer({"bootstrap.servers": SERVERS, "group.id": "failover", "auto.offset.reset": "earliest"})
    again.subscribe(["failover"])
    late = [r for r in (again.poll(0.5) for _ in range(12)) if r is not None and not r.error()]
    again.close()
    print(f"{len(late)} records after the group came back")
    ok = not failed and not left and not wrong and total == acked[0] and not late
    print("ok failover" if ok else f"FAIL failover (logs in {WORK})")
    return ok


try:
    ok = main()
finally:
    [process.kill() for process in running.values()]
if ok:
    shutil.rmtree(WORK)
sys.exit(0 if ok else 1)
