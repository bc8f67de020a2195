"""Train fields on what another model computes, and tell what they keep of it.

    python -m eval.fields.teacher --teacher=runs/name --workdir=runs/taught [--steps N]
                                  [--checkpoint best|last|STEP] [--tensors N] [--fields NAME ...]

The teacher is any language model of the zoo, trained by `python -m train`. Its hidden states on
training and validation text, and the queries, keys and values of its attention layers if it has
any, are captured once into shards in the working folder, and replayed for every field (listed in
FIELDS), which learns its distribution of the next token. Prints a table and
writes `teacher.json`: KL(teacher || field) in nats, over all contexts and by class of the last byte
read (F-26); losses of both and the share of the teacher's gain over unigrams that a field keeps;
cosine of Stage 1 with a random projection of the hidden states; R^2 of the teacher's logits by
linear regression on what the predictor reads (F-27).
"""

import shlex
import sys
import time
from pathlib import Path

from jaxmodels import cli


@cli.command()
def main(arguments: list[str]) -> None:
    """Capture, train and compare."""
    from eval.fields.taught import FIELDS

    parser = cli.parser("eval.fields.teacher", __doc__, workdir="folder for shards and results")
    add = parser.add_argument
    add("--teacher", required=True, help=cli.RUN)
    add("--checkpoint", default="last", help="of the teacher: best, last, or a step")
    add("--steps", type=int, default=150, help="batches of 1,024 contexts; default: %(default)s")
    add("--contexts", type=int, default=16_384, help="held out; default: %(default)s")
    add("--tensors", type=int, default=2048, help="of each field; default: %(default)s")
    add(
        "--fields",
        nargs="+",
        choices=list(FIELDS),
        metavar="NAME",
        help="default: all that the teacher allows",
    )
    add("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)

    from eval.fields.taught import run_all
    from eval.log import device_description, versions
    from eval.report.document import Heading, Table, to_terminal

    start = time.perf_counter()
    result = {"command": shlex.join(["python", "-m", "eval.fields.teacher", *arguments])}
    result |= run_all(options)
    result["seconds"] = round(time.perf_counter() - start, 1)
    result |= {"device": device_description(), "versions": versions()}
    path = Path(options.workdir) / "teacher.json"
    cli.write_json(path, result)
    header = ["field", "KL", "loss", "kept", "Stage-1 cosine", "R^2 of logits"]
    rows = [
        [name, *(_number(r.get(key)) for key in ("kl", "loss", "kept", "cosine", "r2"))]
        for name, r in result["fields"].items()
    ]
    classes = list(next(iter(result["fields"].values()))["kl_by_class"])
    by_class = [
        [name, *(_number(r["kl_by_class"][k]) for k in classes)]
        for name, r in result["fields"].items()
    ]
    to_terminal(
        [
            Heading(f"Fields of {result['teacher']}, loss {result['teacher_loss']:.3f}"),
            Table(header, rows),
            Table(["KL after", *classes], by_class),
        ]
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
