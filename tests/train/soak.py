"""Train a small run for a long time, and end another one a hundred times.

    python -m tests.train.soak [--minutes 60] [--kills 100] [--seed 0] [--json FILE]

First, for all the minutes, one process takes thousands of checkpoints, drops the old ones and
validates; its memory, threads, open files and the size of its checkpoints are watched. Then a run
is ended by SIGKILL, SIGTERM, SIGHUP and full disks in turn (tests/train/kill_script.py) and must
end in the same bytes as an undisturbed one. Linux: reads /proc.
"""

import argparse
import collections
import contextlib
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.train.corpus import small_text
from tests.train.kill_script import KINDS, assert_same, kill_and_resume, start

EVERY = 10  # steps between two checkpoints, and between two validations
# tensorstore 0.1.86 loses 36 KiB and more for each checkpoint; see tests/train/growth.py.
MAX_KIB = 64  # growth of the memory for each checkpoint
MAX_MORE = 16  # threads and files, which come and go with a checkpoint that is being written


def sample(pid: int, workdir: Path) -> dict[str, float]:
    """Measure a process and the folder of its run."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    files = [file for file in (workdir / "checkpoints").rglob("*") if file.is_file()]
    sizes = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # dropped in the meantime
            sizes.append(file.stat().st_size)
    return {
        "memory_mib": int(fields["VmRSS"].split()[0]) / 1024,
        "threads": int(fields["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "checkpoint_kib": sum(sizes) / 1024,
    }


def steady(folder: Path, minutes: float, say=print) -> dict[str, dict[str, float] | float]:
    """Run one process for some minutes; return medians of quarters of the time, and counts."""
    text, workdir = folder / "small.txt", folder / "steady"
    text.write_text(small_text())
    fields = {"steps": 10**8, "checkpoint_every": EVERY, "eval_every": EVERY, "log_every": 1000}
    process = start(workdir, text, *(f"--config.{name}={value}" for name, value in fields.items()))
    samples, until = [], time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < until:
            time.sleep(min(60 * minutes / 200, 5.0))
            assert process.poll() is None, process.communicate()[0]
            if (workdir / "checkpoints").exists():
                samples.append(sample(process.pid, workdir))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130, out
    finally:
        process.kill()
        process.wait()
    step = int(out.split()[1])
    quarters = [
        samples[i * len(samples) // 4 : (i + 1) * len(samples) // 4 or None] for i in range(4)
    ]
    medians = {
        name: [round(statistics.median(s[name] for s in quarter), 1) for quarter in quarters]
        for name in samples[0]
    }
    say(f"{step} steps, {step // EVERY} checkpoints and validations; by quarters: {medians}")
    return {"minutes": minutes, "steps": step, "checkpoints": step // EVERY, "quarters": medians}


def check_steady(result: dict) -> None:
    """Raise AssertionError if something grew from the third quarter of the time to the last."""
    third, last = ({name: q[i] for name, q in result["quarters"].items()} for i in (2, 3))
    grown = 1024 * (last["memory_mib"] - third["memory_mib"]) / (result["checkpoints"] / 4)
    result["memory_kib_per_checkpoint"] = round(grown, 1)
    assert grown <= MAX_KIB, result
    assert last["checkpoint_kib"] <= 1.5 * third["checkpoint_kib"], result
    for name in ("threads", "files"):
        assert last[name] - third[name] <= MAX_MORE, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    flags = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = {"command": f"python -m tests.train.soak {' '.join(sys.argv[1:])}"}
        result["steady"] = steady(Path(folder), flags.minutes)
        check_steady(result["steady"])
        if flags.kills:
            ends, steps = collections.Counter(), max(200, 10 * flags.kills)
            again = kill_and_resume(Path(folder), flags.kills, flags.seed, steps, KINDS, ends)
            assert_same(*again)
            statuses = {f"{kind}, status {status}": n for (kind, status), n in ends.items()}
            result["ended"] = {"times": flags.kills, "by": statuses, "identical": True}
    result["seconds"] = round(time.monotonic() - begun, 1)
    print("nothing grew, nothing differs")
    if flags.json:
        from eval.log import device_description, versions

        result |= {"device": device_description(), "versions": versions()}
        flags.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
