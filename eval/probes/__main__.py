"""Compare cells on synthetic tasks at equal parameter counts.

    python -m eval.probes [--tasks NAME ...] [--cells NAME ...] [--seeds 3] [--steps N]
                          [--json FILE [--resume]] [--markdown FILE]

For every cell and task, trains a small model (embedding, two blocks of cell and SwiGLU, head; equal
parameter counts within 2 % per task) on generated rows, and tests it on rows of another seed:

    mqar               multi-query associative recall: the value paired with each key
    selective_copying  the values among noise, in order
    induction          the token after the special token
    passkey            five digits hidden in noise
    parity             parity of the ones so far, at every position
    s5                 product of the permutations of five elements so far, at every position
    relations          the value of an entity, or of the one that it points at
    in_context_recall  the value of a key that comes again
    fuzzy_recall       the same, of keys and values of several tokens
    noisy_recall       the same, with noise for a fifth of the pairs
    memorization       values of keys that no row tells, to be kept in the weights
    compression        the token at each place of a random row, places in random order
    modular_arithmetic the result so far of a calculation modulo 5
    adding             the sum of two marked numbers

In-context, fuzzy and noisy recall, selective copying, memorization and compression are those of MAD
(arXiv 2403.17844), by `--tasks mad`.

The table lists accuracy on scored positions (mean and sample standard deviation over seeds),
chance, fraction of rows without an error, bytes of recurrent state per sequence, parameters, the
learning rate selected on validation rows, tokens seen by each model, and seconds of all models with
compilation. Training stops early when a task is solved. Ctrl-C keeps the finished rows; --resume
continues.
"""

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from eval.log import device_description, versions
from eval.probes.plan import PARAMETERS, make_plans, measure
from eval.probes.progress import ProgressLine
from eval.probes.table import COLUMNS, TITLE, markdown, short_table
from eval.probes.training import Recipe
from eval.report.document import Heading, to_terminal
from jaxmodels import cli
from jaxmodels.cells import CELLS
from jaxmodels.data.synthetic import TASKS
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from train.devices.malloc import keep_freed_memory


def read_rows(path: Path, resume: bool) -> dict[tuple[str, str], dict]:
    """Return (cell, task) -> row of an earlier run; {} without a file.

    Raises:
      UserError: the file exists without --resume, or is not a result of this command.
    """
    if not path.exists():
        return {}
    if not resume:
        raise UserError(f"{path}: exists; add --resume to continue it, or name another file")
    try:
        rows = decode_json(path.read_text(encoding="utf-8"))["rows"]
        by_key = {(row["cell"], row["task"]): row for row in rows if row["settings"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a result of eval.probes; name another file") from None
    for cell, task in by_key:
        if cell not in CELLS or task not in TASKS:
            raise UserError(f"{path}: row {task} {cell} is of another version; name another file")
    try:  # every field that the table reads
        _ = [column(row) for row in by_key.values() for column in COLUMNS.values()]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a result of eval.probes; name another file") from None
    return by_key


@cli.command()
def main(arguments: list[str]) -> int:
    """Train and test the requested models; return 0, or 130 after Ctrl-C."""
    parser = cli.parser("eval.probes", __doc__)
    parser.add_argument("--tasks", nargs="+", metavar="NAME", default=list(TASKS))
    parser.add_argument("--cells", nargs="+", metavar="NAME", default=list(CELLS))
    parser.add_argument("--seeds", type=int, default=3, help="models per cell, task and rate")
    parser.add_argument("--steps", type=int, help="step limit; default: that of the task")
    parser.add_argument("--batch-size", type=int, help="rows per step; default: that of the task")
    parser.add_argument("--parameters", type=int, default=PARAMETERS, help="parameters per model")
    parser.add_argument("--layers", type=int, default=2, help="blocks per model")
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
    file = {"metavar": "FILE", "action": cli.NewFile}
    parser.add_argument("--json", **file, help="write results here after every row")
    parser.add_argument("--markdown", **file, help="write the tables to this file")
    parser.add_argument("--resume", action="store_true", help="keep the rows in the --json file")
    command = shlex.join(["python", "-m", "eval.probes", *arguments])
    return _run(parser.parse_args(arguments), command)


def _run(flags: argparse.Namespace, command: str) -> int:
    if flags.resume and not flags.json:
        raise UserError("--resume: needs --json FILE, the file to continue")
    plans = make_plans(flags)
    rows = read_rows(Path(flags.json), flags.resume) if flags.json else {}
    for plan in plans:
        old = rows.get((plan.cell, plan.task))
        if old and old["settings"] != plan.settings:
            changed = [
                name for name in plan.settings if old["settings"].get(name) != plan.settings[name]
            ]
            raise UserError(
                f"{flags.json}: row {plan.task} {plan.cell} has another "
                f"{', '.join(changed)}; name another file"
            )
    keep_freed_memory()
    todo = [plan for plan in plans if (plan.cell, plan.task) not in rows]
    status = 0
    with ProgressLine(Console(highlight=False, soft_wrap=True), todo) as progress:
        try:
            for plan in todo:
                row = measure(plan, progress.start(plan))
                rows[plan.cell, plan.task] = row
                progress.finish(plan, row)  # before it is stored, which may fail
                _write(flags, rows, command)
        except KeyboardInterrupt:
            status = 130
    ordered = _ordered(rows)
    if ordered:
        to_terminal([Heading(TITLE), short_table(ordered)])
    _write(flags, rows, command)
    if status:
        hint = "; continue with --resume" if flags.json else ", which were not saved"
        print(f"stopped with {len(ordered)} rows finished{hint}", file=sys.stderr)
    return status


def _ordered(rows: dict) -> list[dict]:
    """Return the rows sorted by task and cell."""
    order = {name: i for i, name in enumerate([*TASKS, *CELLS])}
    return sorted(rows.values(), key=lambda row: (order[row["task"]], order[row["cell"]]))


def _write(flags: argparse.Namespace, rows: dict, command: str) -> None:
    """Write the requested files."""
    ordered = _ordered(rows)
    result = {"command": command, "device": device_description(), "versions": versions()}
    result["rows"] = ordered
    if flags.json:
        cli.write_json(flags.json, result)
    if flags.markdown and ordered:
        cli.write_atomically(flags.markdown, markdown(result))


if __name__ == "__main__":
    sys.exit(main())
