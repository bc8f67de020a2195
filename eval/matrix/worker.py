"""One run of a matrix in a process of its own: `python -m eval.matrix.worker`, started by runner.

Trains the config of a file into a folder, from its newest checkpoint if there is one. Programs
compiled by another run with the same shapes are taken from the shared cache. Ends like
`python -m train`: 0 finished, 2 bad input, 3 no longer finite, 130 stopped and saved.
"""

import argparse
import fcntl
import json
import os
import sys
import threading
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.matrix.worker", description=__doc__)
    parser.add_argument("--plan", required=True, help="the run's config as JSON")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--cache", required=True, help="folder of compiled programs")
    parser.add_argument("--cores", default="", help="of the CPU, e.g. 0,1; default: all")
    flags = parser.parse_args(arguments)
    if flags.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in flags.cores.split(",")])
    _follow_parent()

    # JAX counts the cores when it starts.
    import absl.logging
    import jax

    from jaxmodels.errors import UserError
    from jaxmodels.xla_flags import set_safe_flags
    from train.config import from_json
    from train.loop import run
    from train.memory import keep_freed_memory

    absl.logging.set_verbosity(absl.logging.ERROR)
    set_safe_flags()
    keep_freed_memory()
    jax.config.update("jax_compilation_cache_dir", str(Path(flags.cache).absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    workdir = Path(flags.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        # A worker that outlived its parent may still be writing its last checkpoint.
        with open(workdir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plan = Path(flags.plan)
            config = from_json(plan.read_text(encoding="utf-8"), source=str(plan))
            start = time.perf_counter()
            result = run(config, workdir, resume=True)
            _note(workdir, flags.cores, result, time.perf_counter() - start)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return {"halted": 3, "interrupted": 130}.get(result.status, 0)


def _follow_parent() -> None:
    """Asks this process to save and stop when its parent is gone and the pipe from it closes."""

    def wait():
        while os.read(0, 1024):
            pass
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _note(workdir: Path, cores: str, result, seconds: float) -> None:
    """Adds a line on this session to `sessions.jsonl`: where and how long it ran."""
    from eval.log import device_description, versions

    line = {"status": result.status, "step": result.step, "seconds": round(seconds, 1)}
    line |= {"cores": cores or "all", "device": device_description(), "versions": versions()}
    with open(workdir / "sessions.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
