"""Runner of a sweep: each run in its own process, several in parallel.

A failed run does not affect the others. All state is in the folders of the runs, so the runner can
be killed at any time and started again.
"""

import collections
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eval.log import Log, json_object, read_log
from eval.sweep.plan import Sweep
from jaxmodels.errors import UserError
from train.config import differences, read_config, to_json

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
HALTED, FAILED, STOPPED = "halted", "failed", "stopped"
POLL_SECONDS = 0.5
SAVE_SECONDS = 120  # limit for a stopped worker to write its checkpoint


class Worker(subprocess.Popen):
    """A process of `eval.sweep.worker`, which stops when its standard input closes."""

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        status = super().poll()
        if status is not None:
            self.stdin.close()
        return status

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        super().kill()
        self.wait()
        self.stdin.close()


@dataclasses.dataclass
class Run:
    """One entry with one seed.

    Attributes:
      entry: name of the entry.
      seed: the seed.
      config: complete config.
      folder: folder of the run.
      answers: True to evaluate answers to questions, or conversations, after training.
      state: WAITING, RUNNING, FINISHED; HALTED: the loss became NaN or Inf, which is a result;
        FAILED: the process ended without finishing; STOPPED: by a signal, after saving.
      reason: why it halted or failed.
      begun: monotonic time when its process started, or None.
    """

    entry: str
    seed: int
    config: ConfigDict
    folder: Path
    answers: bool = False
    state: str = WAITING
    reason: str = ""
    begun: float | None = None

    @property
    def name(self) -> str:
        """Entry and seed as text."""
        return f"{self.entry}, seed {self.seed}"

    def log(self) -> Log:
        """Read the log; an empty one before the run has started."""
        files = (self.folder / "config.json", self.folder / "metrics.jsonl")
        return read_log(self.folder) if any(map(Path.exists, files)) else Log(self.folder)

    def look(self) -> None:
        """Set the state from the content of the folder.

        Raises:
          UserError: the folder holds a run with another config.
        """
        log = self.log()
        if log.config:
            if changed := differences(read_config(self.folder / "config.json"), self.config):
                raise UserError(
                    f"{self.folder}: holds a run with another {', '.join(changed)}; "
                    "name another --workdir"
                )
        if log.final and (not self.answers or answers_measured(self.folder)):
            self.state = FINISHED
        elif log.stopped:
            self.state, self.reason = HALTED, log.stopped
        else:
            self.state = WAITING


def answers_measured(folder: Path) -> bool:
    """Return True if a run was evaluated with the settings of a sweep, e.g. not on fewer pairs."""
    from eval.__main__ import MAX_PAIRS

    if conversation := json_object(folder / "chat.json"):
        return conversation.get("max_pairs") == MAX_PAIRS
    answers = json_object(folder / "answers.json")
    rounds = json_object(folder / "config.json").get("model_config", {}).get("halt_max_steps", 1)
    settings = answers.get("checkpoint"), answers.get("max_pairs"), answers.get("rounds")
    return settings == ("best", MAX_PAIRS, rounds)


def runs_of(sweep: Sweep, workdir: Path) -> list[Run]:
    """Return all runs, seed by seed, so that an interrupted sweep can compare all entries.

    Raises:
      UserError: two entries have the same folder name.
    """
    folders = {
        name: workdir / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "entry")
        for name in sweep.entries
    }
    if len(set(folders.values())) < len(folders):
        raise UserError(f"entries {', '.join(folders)}: two names give the same folder")
    return [
        Run(name, seed, entry.of_seed(seed), folders[name] / f"seed{seed}", sweep.answers)
        for seed in sweep.seeds
        for name, entry in sweep.entries.items()
    ]


def cores_of(jobs: int) -> list[list[int]]:
    """Return the CPU cores of each of `jobs` processes; empty lists mean no affinity."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    count = max(1, len(cores) // jobs)
    return [[cores[(i * count + j) % len(cores)] for j in range(count)] for i in range(jobs)]


def cache_variables(folder: Path) -> dict[str, str]:
    """Return the environment variables that make JAX keep compiled programs in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def start_worker(run: Run, cores: Sequence[int], cache: Path) -> Worker:
    """Start a process that trains a run; its output goes to `worker.log` in the run's folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    plan = run.folder / "plan.json"
    plan.write_text(to_json(run.config), encoding="utf-8")
    command = [sys.executable, "-m", "eval.sweep.worker", f"--plan={plan}"]
    command += [f"--cores={','.join(map(str, cores))}"]
    command += ["--answers"] if run.answers else []
    # Compiled CPU programs depend on the number of threads.
    environment = os.environ | cache_variables(cache / f"{len(cores) or 'all'}_cores")
    if cores:
        environment |= {"OMP_NUM_THREADS": str(len(cores)), "OPENBLAS_NUM_THREADS": str(len(cores))}
    with open(run.folder / "worker.log", "a", encoding="utf-8") as log:
        return Worker(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # closes when this process ends, which stops the worker
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the workers
        )


def run_all(
    runs: Sequence[Run],
    jobs: int,
    start: Callable[[Run, int], subprocess.Popen],
    tick: Callable[[], Any] = lambda: None,
    stops: Callable[[], int] = lambda: 0,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Run the waiting runs, `jobs` in parallel; set states and reasons in place.

    Args:
      runs: in starting order; runs that are not waiting are skipped.
      jobs: number of parallel processes.
      start: (run, slot from 0 to jobs - 1) -> process.
      tick: called after each poll of the processes.
      stops: number of stop requests so far; the first makes the workers save, the second kills
        them.
      poll_seconds: polling interval.

    Raises:
      KeyboardInterrupt: a stop was requested, and all workers have ended.
    """
    queue = collections.deque(run for run in runs if run.state == WAITING)
    busy: dict[int, tuple[Run, subprocess.Popen]] = {}
    try:
        while (queue or busy) and not stops():
            for slot in range(jobs):
                if queue and slot not in busy:
                    run = queue.popleft()
                    run.state, run.begun = RUNNING, time.monotonic()
                    busy[slot] = (run, start(run, slot))
            _settle(busy)
            tick()
            if busy:
                time.sleep(poll_seconds)
    finally:
        for _, process in busy.values():
            process.terminate()
        until = time.monotonic() + SAVE_SECONDS
        while busy and stops() < 2 and time.monotonic() < until:
            _settle(busy)
            time.sleep(poll_seconds)
        for run, process in busy.values():
            process.kill()
            run.state = STOPPED
    if stops():
        raise KeyboardInterrupt


def _settle(busy: dict[int, tuple[Run, subprocess.Popen]]) -> None:
    """Remove processes that have ended, and set the states of their runs."""
    for slot, (run, process) in list(busy.items()):
        if (status := process.poll()) is not None:
            del busy[slot]
            _ended(run, status)


def _ended(run: Run, status: int) -> None:
    try:
        run.look()
    except UserError as error:  # e.g. files of another version of the code
        run.state, run.reason = FAILED, str(error)
    if run.state != WAITING:
        return
    if status == 130:
        run.state = STOPPED
        return
    run.state = FAILED
    run.reason = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    if status in (2, 4):
        log = (run.folder / "worker.log").read_text(encoding="utf-8", errors="replace")
        errors = [line for line in log.splitlines()[-20:] if line.startswith("error: ")]
        run.reason = errors[-1].removeprefix("error: ") if errors else run.reason
