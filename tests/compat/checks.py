"""What every client is put through: names of checks, and how they are reported.

A check is a function that raises when something is not as Kafka has it. Each prints one line: `ok CLIENT VERSION | CHECK | time` or
`FAIL CLIENT VERSION | CHECK | why`.
"""

import sys
import time
import traceback
import uuid

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def unique(name):
    return f"{name}-{uuid.uuid4().hex[:8]}"


def eventually(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


def run(client, version, only=None):
    failed = 0
    for function in CHECKS:
        if only and only not in function.__name__:
            continue
        name = function.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            function()
            print(f"ok {client} {version} | {name} | {time.monotonic() - started:.1f} s", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL {client} {version} | {name} | {type(error).__name__}: {error}".replace("\n", " "), flush=True)
            traceback.print_exc(file=sys.stderr)
    sys.exit(1 if failed else 0)
