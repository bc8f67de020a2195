"""Train every entry of a sweep with several seeds, and compare the entries.

    python -m eval.sweep --config=configs/groundthink/matrix.py --workdir=runs/matrix
                         [--preset cpu|full|smoke] [--jobs 2] [--only NAME ...] [--seeds 0 1 2]
                         [--steps N] [--set NAME FIELD=VALUE ...] [--data PATH ...] [--plan]
                         [--report [JSON]] [--diagnostics [brief|whole]] [--config.FIELD=VALUE ...]

The file defines get_sweep() (see docs/config.md); --set makes variants of a training config,
which defines only get_config(). Prints the plan, i.e. parameters and tokens of every entry (--plan
stops there), then trains each run in its own process in WORKDIR/<entry>/seed<k>. Repeat the command
to resume after a stop or a crash: finished runs are kept, others continue from their checkpoints,
bit for bit with the same --jobs. Writes sweep.json (all results), sweep.html and sweep.md.
`--report --diagnostics` trains nothing and adds missing diagnostics of finished runs;
`--report=FILE.json` rebuilds both pages from a sweep.json.
"""

import argparse
import contextlib
import functools
import shlex
import signal
import sys
import time
from pathlib import Path

from eval.sweep.plan import make_plan, plan_table
from eval.sweep.spec import EXAMPLE, read_sweep
from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from jaxmodels.paths import user_path
from train.devices.signals import stop_signals

EXIT = """exit status: 0 all runs finished, 1 some runs failed, 2 invalid input (with a one-line
error), 4 the disk is full, 130 stopped by Ctrl-C, SIGTERM or a closed terminal (saved,
resumable)."""
MEMORY = "memory"  # in --only: memory of the compiled training steps


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "eval.sweep", *arguments])
    interrupted = f"stopped, all progress is saved; continue with\n  {command}"
    with _StopRequest() as stop:
        return cli.run(lambda: _run(arguments, command, stop), interrupted=interrupted)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("eval.sweep", __doc__, workdir="folder of all runs", epilog=EXIT)
    add = parser.add_argument
    add("--config", help="file that defines get_sweep(), or a training config")
    add("--preset", default="", help="preset of the file, e.g. cpu, full or smoke")
    add("--jobs", type=int, default=1, help="number of parallel runs, which share the cores")
    add("--only", nargs="+", metavar="NAME", default=[], help="entries to run, or memory")
    add("--seeds", type=int, nargs="+", default=[], help="seeds; default: those of the file")
    add("--steps", type=int, help="steps of every run; warm-up and validation are adapted")
    add("--set", nargs="+", action="append", metavar="NAME FIELD=VALUE", help="add an entry")
    add("--data", nargs="+", metavar="PATH", default=[], help="data of all entries")
    add("--plan", action="store_true", help="only print the plan")
    add("--report", nargs="?", const="", metavar="JSON", help="only write the current results")
    add(
        "--diagnostics",
        nargs="?",
        const="brief",
        choices=("brief", "whole"),
        help="run diagnostics on finished runs; default: brief",
    )
    return parser


def _run(arguments: list[str], command: str, stop) -> int:
    flags, overrides = cli.parse_with_overrides(_parser(), arguments)
    from rich.console import Console

    from eval.report.document import to_terminal
    from eval.sweep.runner import FAILED, FINISHED, runs_of
    from train.io.lock import one_writer

    if flags.jobs < 1:
        raise UserError(f"--jobs={flags.jobs}: give 1 or more")
    workdir = Path(flags.workdir)
    if flags.report:
        return _rebuild(user_path(flags.report, "--report="), workdir)
    if not flags.config:
        raise UserError(f"--config is missing, e.g. --config={EXAMPLE}")
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if flags.data:
        overrides = [*overrides, f"--config.data.paths={tuple(flags.data)!r}"]
    spec = read_sweep(flags.config, flags.preset, flags.set or ())
    with console.status("counting parameters"):
        sweep = make_plan(spec, overrides, flags.seeds, flags.steps)
    runs = runs_of(sweep, workdir)
    names = [*sweep.entries, *([MEMORY] if sweep.memory else [])]
    if unknown := [name for name in flags.only if name not in names]:
        raise UserError(f"--only {unknown[0]!r}: no such entry{cli.choose_from(names)}")
    selected = [run for run in runs if not flags.only or run.entry in flags.only]
    to_terminal([plan_table(sweep)], width=120)
    if flags.plan:
        return 0
    workdir.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    # A report only reads, so it may run next to a command that trains.
    read_only = flags.report is not None and not flags.diagnostics
    with contextlib.nullcontext() if read_only else one_writer(workdir, "python -m eval.sweep"):
        for run in runs:
            run.look()
        if before := sum(run.state == FINISHED for run in selected):
            console.print(f"{before} of {len(selected)} runs were finished before")
        if flags.report is None:
            _train(sweep, selected, flags, console, stop)
        if flags.diagnostics:
            from eval.sweep.diagnose import diagnose

            say = functools.partial(console.print, markup=False)
            diagnose(selected, workdir / "cache", say, whole=flags.diagnostics == "whole")
        _write(sweep, runs, flags, command, time.time() - begun)
    failed = [run for run in selected if run.state == FAILED]
    for run in failed:
        print(f"error: {run.name}: {run.reason}, see {run.folder}/worker.log", file=sys.stderr)
    if failed:
        print("repeat the command to retry the failed runs", file=sys.stderr)
    return 1 if failed else 0


def _train(sweep, runs, flags: argparse.Namespace, console, stop) -> None:
    """Train the waiting runs, then measure the memory of the presets."""
    from eval.sweep import memory
    from eval.sweep.progress import LiveProgress
    from eval.sweep.runner import cores_of, run_all, start_worker

    workdir = Path(flags.workdir)
    cores = cores_of(flags.jobs)

    def start(run, slot):
        return start_worker(run, cores[slot], workdir / "cache")

    with LiveProgress(console, runs, sweep.measure) as progress:
        stop.counting = True
        run_all(runs, flags.jobs, start, progress.tick, lambda: stop.requests)
        stop.counting = False
        progress.tick()
    if not flags.only or MEMORY in flags.only:
        memory.measure(sweep.memory, workdir / "memory.json")


def _write(sweep, runs, flags: argparse.Namespace, command: str, seconds: float) -> None:
    """Write sweep.json and the pages, and print a summary."""
    import scipy

    from eval.log import device_description, json_object, versions
    from eval.report.document import to_terminal
    from eval.sweep import claims, page, results, statistics

    workdir = Path(flags.workdir)
    facts = {
        "command": command,
        "config": str(flags.config),
        "preset": flags.preset,
        "jobs": flags.jobs,
        "device": device_description(),
        "versions": versions() | {"scipy": scipy.__version__},
        "wall_seconds": round(seconds, 1),
    }
    result = statistics.answered(results.collect(sweep, runs, facts))
    if sweep.claims:
        result["memory"] = json_object(workdir / "memory.json")
        result["claims"] = claims.judge(sweep.claims, result)
        result["claims_note"] = sweep.claims_note
    to_terminal(page.brief(result), width=120)
    cli.write_atomically(workdir / "sweep.json", results.as_json(result))
    _write_pages(result, workdir)
    print(f"wrote {workdir}/sweep.json, sweep.html, sweep.md")


def _write_pages(result, workdir: Path) -> None:
    from eval.report.document import to_markdown
    from eval.sweep import page

    cli.write_atomically(workdir / "sweep.html", page.compose(result))
    cli.write_atomically(workdir / "sweep.md", to_markdown(page.summary(result)))


def _rebuild(path: Path, workdir: Path) -> int:
    """Write the pages of a sweep from its sweep.json."""
    from eval.sweep.statistics import answered

    try:
        result = answered(decode_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--report={path}: not a valid sweep.json ({error!r})") from error
    workdir.mkdir(parents=True, exist_ok=True)
    _write_pages(result, workdir)
    print(f"wrote {workdir}/sweep.html, sweep.md")
    return 0


class _StopRequest:
    """Handler of SIGINT, SIGTERM and SIGHUP, as a context manager.

    Raises KeyboardInterrupt; while `counting` it only increments `requests`, because JAX swallows
    exceptions raised inside its callbacks.
    """

    def __enter__(self):
        self.requests, self.counting = 0, False
        self.before = {number: signal.signal(number, self._stop) for number in stop_signals()}
        return self

    def __exit__(self, *exc):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _stop(self, number, frame) -> None:
        hangup = number not in (signal.SIGINT, signal.SIGTERM)
        if hangup and self.requests:  # a terminal is closed once, whatever its shell sends
            return
        self.requests += 1
        if not self.counting:
            raise KeyboardInterrupt
        if self.requests == 1:
            print("\nsaving; interrupt again to kill the runs", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
