"""Worker process of the sweep runner: one run, `python -m eval.sweep.worker`.

Trains a config in its folder, resuming from the newest checkpoint, and optionally evaluates its
answers. Exit statuses are those of `python -m train`: 0 finished, 2 invalid input, 3 NaN or Inf,
4 the disk is full, 130 stopped and saved.
"""

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.sweep.worker", description=__doc__)
    parser.add_argument("--plan", required=True, help="the config as JSON, in the run's folder")
    parser.add_argument("--cores", default="", help="CPU cores, e.g. 0,1; default: all")
    parser.add_argument("--answers", action="store_true", help="evaluate after training")
    flags = parser.parse_args(arguments)
    if flags.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in flags.cores.split(",")])
    _follow_parent()

    # Import after setting the affinity: JAX counts the cores at start-up.
    from jaxmodels.cli import quiet_absl, run
    from train.devices.malloc import keep_freed_memory

    quiet_absl()
    keep_freed_memory()
    return run(lambda: _train(flags), interrupted="stopped")


def _train(flags: argparse.Namespace) -> int:
    from eval.__main__ import main as evaluate
    from eval.sweep.runner import SAVE_SECONDS, answers_measured
    from train.config import read_config
    from train.io.lock import one_writer
    from train.loop import run

    workdir = Path(flags.plan).parent
    # An orphaned worker may still be writing its last checkpoint.
    with one_writer(workdir, "a run of eval.sweep", wait=SAVE_SECONDS):
        config = read_config(flags.plan)
        start = time.perf_counter()
        result = run(config, workdir, resume=True)
        _log_session(workdir, flags.cores, result, time.perf_counter() - start)
        status = {"halted": 3, "interrupted": 130}.get(result.status, 0)
        if flags.answers and not status and not answers_measured(workdir):
            status = evaluate([f"--workdir={workdir}", "--batch-size=64", "--replies=0"])
    return status


def _follow_parent() -> None:
    """Make this process save and stop when standard input closes, i.e. when its parent ends."""

    def wait():
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _log_session(workdir: Path, cores: str, result, seconds: float) -> None:
    """Append the device and the time of this session to `sessions.jsonl`."""
    from eval.log import device_description, versions

    line = {"status": result.status, "step": result.step, "seconds": round(seconds, 1)}
    line |= {"cores": cores or "all", "device": device_description(), "versions": versions()}
    with open(workdir / "sessions.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    status = main()
    from jaxmodels.cli import leave  # after `main` has chosen the cores

    leave(status)
