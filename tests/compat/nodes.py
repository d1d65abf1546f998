"""Three nodes of one cluster on this machine, to be killed and started again."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from confluent_kafka.admin import AdminClient, NewTopic


class Nodes:
    def __init__(self, dlog, base, racks=None):
        self.racks = racks or {}
        self.dlog, self.base, self.work, self.running = os.path.realpath(dlog), base, tempfile.mkdtemp(), {}
        self.ports = {node: base + node - 1 for node in (1, 2, 3)}
        self.servers = ",".join(f"127.0.0.1:{port}" for port in self.ports.values())

    def __enter__(self):
        try:
            [self.start(node) for node in self.ports]
            self.wait_for(3)
        except BaseException:
            print(self.log(), file=sys.stderr)
            self.__exit__()
            raise
        return self

    def __exit__(self, failed=None, *_):
        if failed:
            print(self.log(), file=sys.stderr)
        for process in self.running.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.work)

    def start(self, node):
        members = ",".join(f"{n}=127.0.0.1:{port}" for n, port in self.ports.items())
        with open(f"{self.work}/node{node}.log", "ab") as log:
            self.running[node] = subprocess.Popen(
                [self.dlog, "--node-id", str(node), "--data-dir", f"{self.work}/data{node}", "--cluster-nodes", members]
                + ["--segment-bytes", "128MiB", "--http", f"127.0.0.1:{self.base + 100 + node}"]
                + (["--location", f"rack={self.racks[node]}"] if node in self.racks else []),
                stderr=log,
                stdout=log,
            )

    def kill(self, node):
        """kill -9"""
        self.running[node].kill()
        self.running[node].wait()

    def restart(self, node):
        """As an operator does: stopped in order, started, and waited for."""
        self.running[node].send_signal(signal.SIGTERM)
        assert self.running[node].wait(30) == 0, f"node {node} did not stop in order"
        self.start(node)
        self.wait_for(3)

    def admin(self):
        return AdminClient({"bootstrap.servers": self.servers})

    def wait_for(self, brokers):
        admin, deadline = self.admin(), time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if len(admin.list_topics(timeout=5).brokers) == brokers:
                    return
            except Exception:
                pass
            time.sleep(0.2)
        raise AssertionError(f"there are not {brokers} brokers after 60 s")

    def make_topic(self, name, partitions):
        admin = self.admin()  # it must live until the answer comes
        admin.create_topics([NewTopic(name, partitions, 3)])[name].result(20)

    def log(self):
        """The last lines of what the nodes say."""
        lines = []
        for node in self.ports:
            with open(f"{self.work}/node{node}.log") as log:
                lines += [f"node {node}: {line.rstrip()}" for line in log.readlines()[-15:]]
        return "\n".join(lines)


class Trouble(threading.Thread):
    """Lets things happen: [(second, what, to which node)]. `join` raises what went wrong."""

    def __init__(self, events):
        super().__init__(daemon=True)
        self.events, self.error = events, None
        self.start()

    def run(self):
        started = time.monotonic()
        try:
            for second, act, node in self.events:
                time.sleep(max(0, started + second - time.monotonic()))
                act(node)
        except BaseException as error:
            self.error = error

    def join(self, timeout=None):
        super().join(timeout)
        if self.error:
            raise self.error
