"""Run every entry of a matrix with several seeds, and say what their differences answer.

    python -m eval.matrix --config=configs/groundthink/matrix.py --workdir=runs/matrix
                          [--preset cpu|full|smoke] [--jobs 2] [--only NAME ...] [--seeds 0 1 2]
                          [--data PATH ...] [--plan] [--report] [--diagnostics [brief|whole]]
                          [--config.FIELD=VALUE ...]

First the plan: parameters and tokens of every entry, nothing trained (`--plan` ends there). Then
each run as a process of its own in workdir/<entry>/seed<k>. Killed at any moment, the same command
goes on: what is finished is kept, what is half done continues from its checkpoint, with the same
--jobs bit for bit. Writes matrix.json (every number), matrix.html and matrix.md (the answers).
`--report --diagnostics` trains nothing and looks into what has finished; what a run's folder holds
of that already is kept.
"""

import argparse
import contextlib
import functools
import shlex
import signal
import sys
import time
from pathlib import Path

from eval.matrix.plan import make_plan, plan_table, read_matrix
from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags

EXIT = """exit status: 0 all is run, 1 some runs failed, 2 a mistake in the input (one line says
which), 130 stopped by Ctrl-C or SIGTERM (saved, resumable)."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    arguments = sys.argv[1:] if arguments is None else arguments
    flags, overrides = _parser().parse_known_args(arguments)
    command = shlex.join(["python", "-m", "eval.matrix", *arguments])
    stop = _StopRequest()
    try:
        with stop:
            return _run(flags, overrides, command, stop)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped, what was done is saved; go on with\n  {command}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.matrix",
        description=__doc__,
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="file that defines get_matrix(preset)")
    parser.add_argument("--workdir", required=True, help="folder for all the runs")
    parser.add_argument("--preset", default="cpu", help="of the file, e.g. cpu, full or smoke")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, cores shared out")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="run these entries")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="instead of the file's")
    parser.add_argument("--data", nargs="+", metavar="PATH", default=[], help="text of all entries")
    parser.add_argument("--plan", action="store_true", help="only print the plan")
    parser.add_argument("--report", action="store_true", help="only write what is known so far")
    parser.add_argument(
        "--diagnostics",
        nargs="?",
        const="brief",
        choices=("brief", "whole"),
        help="look into the finished runs (of --only), by default briefly",
    )
    return parser


def _run(flags: argparse.Namespace, overrides: list[str], command: str, stop) -> int:
    from rich.console import Console

    from eval.matrix.live import LiveTable
    from eval.matrix.runner import FAILED, cores_of, run_all, runs_of, start_worker

    if flags.jobs < 1:
        raise UserError(f"--jobs={flags.jobs}: give 1 or more")
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if flags.data:
        overrides = [*overrides, f"--config.data.paths={tuple(flags.data)!r}"]
    given = read_matrix(flags.config, flags.preset)
    with console.status("counting parameters"):
        matrix = make_plan(given, overrides, flags.seeds)
    workdir = Path(flags.workdir)
    every = runs_of(matrix, workdir)
    chosen = {run.name for run in runs_of(matrix, workdir, flags.only)}
    console.print(plan_table(matrix))
    if flags.plan:
        return 0
    workdir.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    # Reading disturbs no command that is at work there.
    reading = flags.report and not flags.diagnostics
    with contextlib.nullcontext() if reading else _Lock(workdir):
        for run in every:
            run.look()
        runs = [run for run in every if run.name in chosen]
        if not flags.report:
            cores, cache = cores_of(flags.jobs), workdir / "cache"

            def start(run, slot):
                return start_worker(run, cores[slot], cache)

            with LiveTable(console, runs, flags.jobs, matrix.measure) as table:
                stop.counted = True
                run_all(runs, flags.jobs, start, table.tick, lambda: stop.wishes)
                stop.counted = False
                table.tick()
        if flags.diagnostics:
            from eval.matrix.diagnose import diagnose

            whole = flags.diagnostics == "whole"
            said = functools.partial(console.print, markup=False)
            diagnose(runs, workdir / "cache", said, whole=whole)
        _write(workdir, matrix, every, flags, command, time.time() - begun, console)
    failed = [run for run in runs if run.state == FAILED]
    for run in failed:
        print(f"error: {run.name}: {run.reason}, see {run.folder}/worker.log", file=sys.stderr)
    if failed:
        print("the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _write(workdir, matrix, runs, flags, command, seconds, console) -> None:
    """matrix.json, matrix.html and matrix.md, and the answers on the terminal."""
    from eval.log import device_description, versions
    from eval.matrix import answers, page, results

    made = {
        "command": command,
        "config": str(flags.config),
        "preset": flags.preset,
        "jobs": flags.jobs,
        "device": device_description(),
        "versions": versions() | {"scipy": answers.scipy_version()},
        "wall_seconds": round(seconds, 1),
    }
    result = results.collect(matrix, runs, made)
    result |= {"answers": answers.answer_all(result), "diagnosed": answers.diagnose(result)}
    results.replace(workdir / "matrix.json", results.as_json(result))
    results.replace(workdir / "matrix.html", page.compose(result))
    results.replace(workdir / "matrix.md", page.markdown(result))
    console.print(answers.table(result))
    console.print(f"wrote {workdir}/matrix.json, matrix.html, matrix.md", style="dim")


class _StopRequest:
    """SIGINT and SIGTERM, at first as KeyboardInterrupt; `counted`, they only add to `wishes`.

    Counted, because an exception may come up in a callback of JAX, which would swallow it.
    """

    def __enter__(self):
        self.wishes, self.counted = 0, False
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._wish) for number in numbers}
        return self

    def __exit__(self, *exc):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _wish(self, number, frame) -> None:
        self.wishes += 1
        if not self.counted:
            raise KeyboardInterrupt
        if self.wishes == 1:
            print("\nsaving; once more ends the runs at once", file=sys.stderr)


class _Lock:
    """Keeps a second command out of the folder; a killed one leaves nothing behind."""

    def __init__(self, workdir: Path):
        self.path = workdir / "lock"

    def __enter__(self):
        import fcntl

        self.file = open(self.path, "w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise UserError(
                f"{self.path.parent}: another eval.matrix works there; wait for it or stop it"
            ) from None
        return self

    def __exit__(self, *exc):
        self.file.close()


if __name__ == "__main__":
    sys.exit(main())
