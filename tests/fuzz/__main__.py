"""Draw many inputs of every target, and count what is read, refused and wrong.

    python -m tests.fuzz [--examples 10000] [--only NAME ...] [--seed 0] [--json OUT]

An input that ends in anything but a result or a one-line refusal is shrunk and printed, as is one
that takes more than --seconds. Exit status 1 if there is any, or if the process grew by a gigabyte.
The file of figures is written after each target; those of other targets in it stay.
"""

import argparse
import collections
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, given, seed, settings

from eval.log import device_description, json_object, versions
from tests.fuzz.target import in_folder
from tests.fuzz.targets import TARGETS

MOST_BYTES = 1 << 30
WAIT = 12  # times the seconds of computing that an input may take by the clock: a machine is shared


def peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _too_slow(number, frame):
    raise TimeoutError("took too long")


def fuzz(name: str, examples: int, number: int, seconds: int) -> dict:
    """Draw inputs of a target; return the figures."""
    target, counts = TARGETS[name](), collections.Counter()
    before, begun, slowest, fault = peak(), time.perf_counter(), 0.0, None
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "in"

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(target.inputs)
        def check(drawn):
            nonlocal slowest
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.alarm(WAIT * seconds)
            try:
                counts[in_folder(target, folder, drawn)] += 1
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                slowest = max(slowest, time.process_time() - start)

        try:
            check()
        except Exception:
            fault = traceback.format_exc()
    return {
        "inputs": sum(counts.values()),
        **{kind: counts[kind] for kind in ("read", "refused")},
        "seconds": round(time.perf_counter() - begun, 1),
        "slowest_ms": round(1000 * slowest, 1),
        "grown_bytes": peak() - before,
        "fault": fault,
    }


def known(path: str | None, command: str) -> dict[str, dict]:
    """Return the figures in a file that the same command has written, by target."""
    before = json_object(Path(path)) if path else {}
    return before.get("targets", {}) if before.get("command") == command else {}


def main() -> int:
    """Fuzz the targets; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=10_000, help="inputs of each target")
    parser.add_argument("--only", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=10, help="most of computing for one input")
    parser.add_argument("--json", metavar="OUT", help="write the figures to this file")
    flags = parser.parse_args()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _too_slow)
    command = f"python -m tests.fuzz --examples {flags.examples} --seed {flags.seed}"
    figures, wrong = known(flags.json, command), 0
    for name in flags.only:
        row = figures[name] = fuzz(name, flags.examples, flags.seed, flags.seconds)
        bad = row["fault"] is not None or row["grown_bytes"] > MOST_BYTES
        wrong += bad
        print(
            f"{name:20} {row['read']:6,} read {row['refused']:6,} refused  {row['seconds']:7.1f} s"
            f"  slowest {row['slowest_ms']:7.1f} ms  {'FAULT' if bad else 'ok'}",
            flush=True,
        )
        if row["fault"]:
            print(row["fault"], file=sys.stderr)
        if flags.json:
            result = {
                "command": command,
                "versions": versions() | {"hypothesis": hypothesis.__version__},
                "device": device_description(),
                "seconds": round(sum(row["seconds"] for row in figures.values()), 1),
                "targets": figures,
            }
            Path(flags.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
