"""What a cell can and cannot learn, measured on synthetic tasks at equal parameters.

    python -m eval.probes [--tasks NAME ...] [--cells NAME ...] [--seeds 3] [--steps N]
                          [--json FILE [--resume]] [--markdown FILE]

For every cell and task a small model (embedding, two blocks of cell and SwiGLU, head; all models of
a task have the same number of parameters within 2 %) is trained on rows made on the fly and tested
on rows of another seed:

    mqar               which value was paired with this key? several pairs, each asked once
    selective_copying  the values that stood among noise, in order
    induction          what came after the special token?
    passkey            five digits, hidden in noise
    parity             of the ones so far, at every position
    s5                 product of permutations of five things so far, at every position

The table says, for each: accuracy on scored positions (mean and sample standard deviation over
seeds), chance, rows that are right everywhere, bytes of recurrent state a sequence, parameters,
learning rate (trained side by side, chosen by validation rows), tokens seen by each model and
seconds of all of them, compilation included. Training ends early when a task is solved.

Ctrl-C leaves what was finished in the files; --resume goes on from there.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from rich.console import Console

from eval.log import device_description, versions
from eval.probes.plan import PARAMETERS, make_plans, measure
from eval.probes.progress import ProgressLine
from eval.probes.table import markdown, rich_table
from eval.probes.training import Recipe
from jaxmodels.cells import CELLS
from jaxmodels.data.synthetic import TASKS
from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags
from train.memory import keep_freed_memory


def read_rows(path: Path, resume: bool) -> dict[tuple[str, str], dict]:
    """(cell, task) -> row of an earlier call; nothing if there is no file.

    Raises:
      UserError: there is a file and it shall not be continued, or it holds something else.
    """
    if not path.exists():
        return {}
    if not resume:
        raise UserError(f"{path}: exists; add --resume to go on with it, or name another file")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        found = {(row["cell"], row["task"]): row for row in rows if row["settings"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a result of eval.probes; name another file") from None
    for cell, task in found:
        if cell not in CELLS or task not in TASKS:
            raise UserError(
                f"{path}: its row {task} {cell} is of another version; name another file"
            )
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m eval.probes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--tasks", nargs="+", metavar="NAME", default=list(TASKS))
    parser.add_argument("--cells", nargs="+", metavar="NAME", default=list(CELLS))
    parser.add_argument("--seeds", type=int, default=3, help="models of each cell, task and rate")
    parser.add_argument("--steps", type=int, help="at most; default: the task's")
    parser.add_argument("--batch-size", type=int, help="rows a step; default: the task's")
    parser.add_argument("--parameters", type=int, default=PARAMETERS, help="of every model")
    parser.add_argument("--layers", type=int, default=2, help="blocks of every model")
    parser.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        metavar="RATE",
        default=Recipe(1, 1).learning_rates,
        help="peaks to try; default: %(default)s",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="TASK.FIELD=VALUE", help="e.g. mqar.pairs=16"
    )
    parser.add_argument("--json", metavar="FILE", help="write all numbers there, after every row")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --json holds")
    flags = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    command = shlex.join(["python", "-m", "eval.probes", *arguments])
    try:
        return _run(flags, console, command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(flags: argparse.Namespace, console: Console, command: str) -> int:
    if flags.resume and not flags.json:
        raise UserError("--resume: needs --json FILE, the file to go on with")
    for path in (flags.json, flags.markdown):
        if path and not Path(path).parent.is_dir():
            raise UserError(f"{path}: there is no folder {Path(path).parent}; make it first")
    plans = make_plans(flags)
    rows = read_rows(Path(flags.json), flags.resume) if flags.json else {}
    for plan in plans:
        old = rows.get((plan.cell, plan.task))
        if old and old["settings"] != plan.settings:
            changed = [
                name for name in plan.settings if old["settings"].get(name) != plan.settings[name]
            ]
            raise UserError(
                f"{flags.json}: its row {plan.task} {plan.cell} has another "
                f"{', '.join(changed)}; name another file"
            )
    keep_freed_memory()
    todo = [plan for plan in plans if (plan.cell, plan.task) not in rows]
    status = 0
    with ProgressLine(console, todo) as progress:
        try:
            for plan in todo:
                row = measure(plan, progress.start(plan))
                rows[plan.cell, plan.task] = row
                _write(flags, rows, command)
                progress.finish(plan, row)
        except KeyboardInterrupt:
            status = 130
    ordered = _write(flags, rows, command)
    if ordered:
        console.print(rich_table(ordered))
    if status:
        kept = "; the same command with --resume goes on" if flags.json else ", and not kept"
        print(f"stopped with {len(ordered)} rows finished{kept}", file=sys.stderr)
    return status


def _write(flags: argparse.Namespace, rows: dict, command: str) -> list[dict]:
    """Writes the files that were asked for; the rows by task, then cell."""
    place = {name: i for i, name in enumerate([*TASKS, *CELLS])}
    ordered = sorted(rows.values(), key=lambda row: (place[row["task"]], place[row["cell"]]))
    result = {"command": command, "device": device_description(), "versions": versions()}
    result["rows"] = ordered
    if flags.json:
        _replace(Path(flags.json), json.dumps(result, indent=2) + "\n")
    if flags.markdown and ordered:
        _replace(Path(flags.markdown), markdown(result))
    return ordered


def _replace(path: Path, text: str) -> None:
    """Writes a file that is whole at any moment, whatever stops the program."""
    whole = path.with_name(path.name + ".new")
    whole.write_text(text, encoding="utf-8")
    whole.replace(path)


if __name__ == "__main__":
    sys.exit(main())
