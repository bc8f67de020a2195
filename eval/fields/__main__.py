"""Verify a run of HFT, and hold it against other heads on the same features.

    python -m eval.fields --workdir=runs/name [--checkpoint best|last|STEP] [--contexts N]
                          [--examples N] [--heads NAME ...] [--peer RUN ...]
                          [--peer-checkpoint best|last|STEP]

Writes `field.json` into the run's folder, updates `report.html`, and prints tables. The checks are
listed in eval/fields/verify.py, the heads in eval/fields/heads.py and ngram.py; --examples 0 leaves
the heads out. A peer is a run of another model on the same text, a row of the same table; peers of
one model and size that differ in their learning rate are one row, of the best on validation text.
"""

import shlex
import sys

from eval.fields import HEADS
from jaxmodels import cli

CONTEXTS, EXAMPLES = 16_384, 1_048_576


@cli.command()
def main(arguments: list[str]) -> None:
    """Verify the field of a run and print the results."""
    parser = cli.parser("eval.fields", __doc__, workdir=cli.RUN, checkpoint=True)
    add = parser.add_argument
    add(
        "--contexts",
        type=int,
        default=CONTEXTS,
        help="held-out contexts, half of them validation; default: %(default)s",
    )
    add(
        "--examples",
        type=int,
        default=EXAMPLES,
        help="training targets of the heads; 0 = none; default: %(default)s",
    )
    add(
        "--peer",
        action="append",
        default=[],
        metavar="RUN",
        help="run of another model, repeatable",
    )
    add("--heads", nargs="+", choices=HEADS, default=HEADS, help="slow ones; default: all")
    add("--peer-checkpoint", default="last", help="best, last, or a step; default: %(default)s")
    options = parser.parse_args(arguments)

    from eval.fields.report import run, store, summary
    from eval.report.document import Text, to_terminal
    from train.io.lock import one_writer

    command = shlex.join(["python", "-m", "eval.fields", *arguments])
    with one_writer(options.workdir, "python -m eval.fields", role="fields"):
        result = run(options, command)
        to_terminal(summary(result))
        to_terminal([Text(f"wrote {', '.join(store(options, result))}", "missing")])


if __name__ == "__main__":
    sys.exit(main())
