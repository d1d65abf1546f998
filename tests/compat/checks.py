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


def report(client, version, name, function):
    """Whether the check is passed; what it returns is told, or how long it took."""
    started = time.monotonic()
    try:
        said = function()
        print(f"ok {client} {version} | {name} | {said or f'{time.monotonic() - started:.1f} s'}", flush=True)
        return True
    except Exception as error:
        print(f"FAIL {client} {version} | {name} | {type(error).__name__}: {error}".replace("\n", " "), flush=True)
        traceback.print_exc(file=sys.stderr)
        return False


def run(client, version, only=None):
    chosen = [function for function in CHECKS if not only or only in function.__name__]
    passed = [report(client, version, function.__name__.replace("_", " "), function) for function in chosen]
    sys.exit(0 if all(passed) else 1)
