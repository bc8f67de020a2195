"""One run of a sweep in a process of its own, `python -m eval.sweep.worker`, for the runner.

It trains the config of a file into a folder, from its newest checkpoint if there is one, and may
then measure its answers. Programs compiled by another run with the same shapes come from the shared
cache. Exit statuses are those of `python -m train`: 0 finished, 2 bad input, 3 NaN or Inf, 130
stopped and saved.
"""

import argparse
import fcntl
import json
import os
import shlex
import sys
import threading
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.sweep.worker", description=__doc__)
    parser.add_argument("--plan", required=True, help="the run's config as JSON")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--cache", required=True, help="folder of compiled programs")
    parser.add_argument("--cores", default="", help="of the CPU, e.g. 0,1; default: all")
    parser.add_argument("--answers", action="store_true", help="measure answers after training")
    flags = parser.parse_args(arguments)
    if flags.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in flags.cores.split(",")])
    _follow_parent()

    # JAX counts the cores when it starts.
    import jax

    from jaxmodels.cli import quiet_absl, run
    from train.devices.malloc import keep_freed_memory

    quiet_absl()
    keep_freed_memory()
    jax.config.update("jax_compilation_cache_dir", str(Path(flags.cache).absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return run(lambda: _train(flags), interrupted="stopped")


def _train(flags: argparse.Namespace) -> int:
    from train.config import read_config
    from train.loop import run

    workdir = Path(flags.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    # A worker that outlived its parent may still be writing its last checkpoint.
    with open(workdir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        config = read_config(flags.plan)
        start = time.perf_counter()
        result = run(config, workdir, resume=True)
        _note(workdir, flags.cores, result, time.perf_counter() - start)
        status = {"halted": 3, "interrupted": 130}.get(result.status, 0)
        if flags.answers and not status:
            _measure_answers(workdir)
    return status


def _measure_answers(workdir: Path) -> None:
    from eval.evaluators import answers
    from eval.sweep.runner import answers_measured

    if not answers_measured(workdir):
        command = ["python", "-m", "eval", f"--workdir={workdir}", "--batch-size=64"]
        answers.write(workdir, answers.measure(workdir, command=shlex.join(command)))


def _follow_parent() -> None:
    """Make this process save and stop when its parent is gone and the pipe from it closes."""

    def wait():
        while os.read(0, 1024):
            pass
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _note(workdir: Path, cores: str, result, seconds: float) -> None:
    """Add a line on this session to `sessions.jsonl`: where and how long it ran."""
    from eval.log import device_description, versions

    line = {"status": result.status, "step": result.step, "seconds": round(seconds, 1)}
    line |= {"cores": cores or "all", "device": device_description(), "versions": versions()}
    with open(workdir / "sessions.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
