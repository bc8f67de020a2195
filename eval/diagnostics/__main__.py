"""Diagnose a trained model: states, components, memory, identity, and the gates.

    python -m eval.diagnostics --workdir=runs/name [--checkpoint best|last|STEP] [--json OUT]
                               [--data PATH ...] [--distances 0 16 64 256] [--rows 480] [--brief]

Prints every gate, and writes `diagnostics.json` and `diagnostics.html` into the run's folder (with
--json OUT to that file, and the page next to it). docs/groundthink.md describes the diagnostics.
"""

import argparse
import dataclasses
import math
import shlex
import sys
import time
from pathlib import Path

from eval.diagnostics.page import MARKS, compose, gate_table
from eval.report.document import Heading, Text, to_terminal
from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.paths import user_path


@cli.command()
def main(arguments: list[str]) -> None:
    """Diagnose a run and print every gate."""
    parser = cli.parser("eval.diagnostics", __doc__, workdir=cli.RUN, checkpoint=True)
    out = {"metavar": "OUT", "action": cli.NewFile}
    parser.add_argument("--json", **out, help="write the results to this file")
    parser.add_argument("--data", nargs="+", help="use other text")
    parser.add_argument("--distances", type=int, nargs="+", help="passkey distances in tokens")
    parser.add_argument("--rows", type=int, help="number of keys at each distance")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="only states, components, and the passkey at 0 and 64 tokens with 160 keys",
    )
    flags = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "eval.diagnostics", *arguments])
    from train.io.lock import one_writer

    out = _out(flags)
    with one_writer(flags.workdir, "python -m eval.diagnostics", role="diagnostics"):
        result = run_diagnostics(flags, command)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        to_terminal(
            [
                Heading(f"{result['model']}, step {result['step']}: {MARKS[result['overall']]}"),
                gate_table(result),
                *(Text(text, "missing") for text in result["missing"]),
                Text(f"{result['seconds']:.1f} s on {result['device']}", "dim"),
            ]
        )
        cli.write_json(out, result)
        page = out.with_name(out.name.removesuffix(".json") + ".html")
        cli.write_atomically(page, compose(result, Path(flags.workdir).resolve().name))
        to_terminal([Text(f"wrote {out}, {page}", "dim")])


def _out(flags: argparse.Namespace) -> Path:
    """Return the file for the results."""
    return user_path(flags.json or f"{flags.workdir}/diagnostics.json", "--json=")


def run_diagnostics(flags: argparse.Namespace, command: str) -> dict:
    """Run the diagnostics and return their result."""
    from eval.diagnostics.look import Amounts, diagnose
    from eval.log import device_description, read_log, versions
    from eval.run import load_run
    from jaxmodels import count_parameters

    distances = flags.distances or ([0, 64] if flags.brief else [0, 16, 64, 256])
    distances = tuple(sorted(set(distances)))
    rows = (160 if flags.brief else 480) if flags.rows is None else flags.rows
    if distances[0] < 0:
        raise UserError(f"--distances must be at least 0, got {distances[0]}")
    if rows < 30:
        raise UserError(f"--rows must be at least 30 for the linear probe, got {rows}")
    start = time.perf_counter()
    paths = tuple(flags.data) if flags.data else None
    run = load_run(flags.workdir, checkpoint=flags.checkpoint, paths=paths, base=flags.base)
    amounts = Amounts(distances=distances, rows=rows, brief=flags.brief)
    result = {
        "command": command,
        "model": run.config.model,
        "step": run.step,
        "averaged": run.averaged,
        "seed": run.config.seed,
        "parameters": count_parameters(run.model),
        "corpus": run.corpus.name,
        "amounts": dataclasses.asdict(amounts),
    }
    result |= diagnose(run, read_log(flags.workdir), amounts, _say)
    result |= {"device": device_description(), "versions": versions()}
    result["seconds"] = round(time.perf_counter() - start, 1)
    return json_safe(result)


def json_safe(value):
    """Replace non-finite floats by the strings "inf" and "nan", which JSON can represent."""
    if isinstance(value, dict):
        return {name: json_safe(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _say(stage: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{stage} ...", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
