"""The runner of a sweep: each run in a process of its own, several at a time.

A run that fails costs only itself. What has been done is read from the folders of the runs alone,
so the runner may be killed at any moment and started again.
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
from typing import Any, Protocol

from ml_collections import ConfigDict

from eval.log import Log, json_object, read_log
from eval.sweep.plan import Sweep
from jaxmodels.errors import UserError
from train.config import differences, from_json, to_json

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
HALTED, FAILED, STOPPED = "halted", "failed", "stopped"
STATES = (RUNNING, WAITING, FINISHED, HALTED, FAILED, STOPPED)
POLL_SECONDS = 0.5
SAVE_SECONDS = 120  # for a stopped worker to write its checkpoint


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and stop."""

    def kill(self) -> None:
        """End it at once."""


class Worker:
    """A process of `eval.sweep.worker`, which stops when the pipe to it closes."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def poll(self) -> int | None:
        """See `Process`."""
        status = self.process.poll()
        if status is not None:
            self.process.stdin.close()
        return status

    def terminate(self) -> None:
        """See `Process`."""
        self.process.terminate()

    def kill(self) -> None:
        """See `Process`; returns when it is gone."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@dataclasses.dataclass
class Run:
    """One entry with one seed.

    Attributes:
      entry: its name.
      seed: its seed.
      config: complete.
      folder: of the run.
      answers: whether its answers are measured once it is trained.
      state: one of `STATES`. Halted: the loss became NaN or Inf, which is a result. Failed: the
        process ended in another way than by finishing. Stopped: by a signal, and saved.
      reason: why it halted or failed.
      begun: clock when its process started, or None.
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
        """Entry and seed, for people."""
        return f"{self.entry}, seed {self.seed}"

    def log(self) -> Log:
        """Read what it has written so far."""
        known = (self.folder / "config.json").exists() or (self.folder / "metrics.jsonl").exists()
        return read_log(self.folder) if known else Log(self.folder)

    def look(self) -> None:
        """Set the state by what the folder holds.

        Raises:
          UserError: it holds a run of another config.
        """
        log = self.log()
        if log.config:
            path = self.folder / "config.json"
            old = from_json(path.read_text(encoding="utf-8"), str(path))
            if changed := differences(old, self.config):
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
    """Return whether a run's answers are measured as a sweep does it: by hand one may ask less."""
    from eval.evaluators.answers import MAX_PAIRS

    found = json_object(folder / "answers.json")
    rounds = json_object(folder / "config.json").get("model_config", {}).get("halt_max_steps", 1)
    asked = found.get("checkpoint"), found.get("max_pairs"), found.get("rounds")
    return asked == ("best", MAX_PAIRS, rounds)


def folder_name(entry: str) -> str:
    """Return an entry's name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "_", entry.lower()).strip("_") or "entry"


def runs_of(sweep: Sweep, workdir: Path) -> list[Run]:
    """Return every entry x seed, seed by seed, so that a sweep cut short has compared all entries.

    Raises:
      UserError: two names that give one folder.
    """
    if len({folder_name(name) for name in sweep.entries}) < len(sweep.entries):
        raise UserError(f"entries {', '.join(sweep.entries)}: two names give the same folder")
    return [
        Run(
            name,
            seed,
            entry.of_seed(seed),
            workdir / folder_name(name) / f"seed{seed}",
            answers=sweep.answers,
        )
        for seed in sweep.seeds
        for name, entry in sweep.entries.items()
    ]


def cores_of(jobs: int) -> list[list[int]]:
    """Return the cores of each of `jobs` processes; empty lists where they cannot be set."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // jobs)
    return [[cores[(i * share + j) % len(cores)] for j in range(share)] for i in range(jobs)]


def start_worker(run: Run, cores: Sequence[int], cache: Path) -> Worker:
    """Start a process that trains a run; it prints to `worker.log` in the run's folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    plan = run.folder / "plan.json"
    plan.write_text(to_json(run.config), encoding="utf-8")
    listed = ",".join(map(str, cores))
    command = [sys.executable, "-m", "eval.sweep.worker", f"--plan={plan}"]
    # A program is compiled for a number of threads.
    kept = cache / f"{len(cores) or 'all'}_cores"
    command += [f"--workdir={run.folder}", f"--cache={kept}", f"--cores={listed}"]
    command += ["--answers"] if run.answers else []
    environment = dict(os.environ)
    if cores:
        environment |= {"OMP_NUM_THREADS": str(len(cores)), "OPENBLAS_NUM_THREADS": str(len(cores))}
    with open(run.folder / "worker.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # closes with this process, and the worker stops with it
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which asks the workers to save
        )
    return Worker(process)


def run_all(
    runs: Sequence[Run],
    jobs: int,
    start: Callable[[Run, int], Process],
    tick: Callable[[], Any] = lambda: None,
    stops: Callable[[], int] = lambda: 0,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Run what is waiting, `jobs` at a time; states and reasons are set in place.

    Args:
      runs: in the order in which they are begun; those not waiting are left alone.
      jobs: processes side by side.
      start: (run, slot from 0 to jobs - 1) -> its process.
      tick: called after each look at the processes.
      stops: requests to stop so far. After the first the workers save, the second ends them.
      poll_seconds: between two looks.

    Raises:
      KeyboardInterrupt: a stop was requested, and all workers have ended.
    """
    queue = collections.deque(run for run in runs if run.state == WAITING)
    busy: dict[int, tuple[Run, Process]] = {}
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


def _settle(busy: dict[int, tuple[Run, Process]]) -> None:
    """Remove what has ended, its state set."""
    for slot, (run, process) in list(busy.items()):
        if (status := process.poll()) is not None:
            del busy[slot]
            _ended(run, status)


def _ended(run: Run, status: int) -> None:
    try:
        run.look()
    except UserError as error:  # e.g. written by another version of the code
        run.state, run.reason = FAILED, str(error)
    if run.state != WAITING:
        return
    if status == 130:
        run.state = STOPPED
        return
    run.state = FAILED
    killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    lines = _last_lines(run.folder / "worker.log")
    said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    run.reason = said.removeprefix("error: ") if status == 2 and said else killed


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    except OSError:
        return []
