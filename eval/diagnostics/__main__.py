"""Look into a trained model: states, components, memory, identity, and the gates.

    python -m eval.diagnostics --workdir=runs/name [--checkpoint best|last|STEP] [--json OUT]
                               [--data PATH ...] [--distances 0 16 64 256] [--rows 480] [--brief]

Prints every gate, and writes `diagnostics.json` and `diagnostics.html` into the run's folder (with
--json OUT the JSON goes there, and the page beside it). What is measured, and what the words mean:
docs/groundthink.md.
"""

import argparse
import dataclasses
import json
import math
import shlex
import sys
import time
from pathlib import Path

from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m eval.diagnostics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="folder of a run, e.g. runs/ground")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step")
    parser.add_argument("--json", metavar="OUT", help="write the numbers there")
    parser.add_argument("--data", nargs="+", help="other text to look at it with")
    parser.add_argument("--distances", type=int, nargs="+", help="of the passkey, in tokens")
    parser.add_argument("--rows", type=int, help="keys at each distance")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="states, components, a passkey at 0 and 64 tokens with 160 keys; no more",
    )
    flags = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "eval.diagnostics", *arguments])
    try:
        result, paths = run_diagnostics(flags, command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    _show(result, paths)
    return 0


def run_diagnostics(flags: argparse.Namespace, command: str) -> tuple[dict, list[Path]]:
    """Looks, and writes the JSON and the page -> (result, their paths)."""
    from eval.diagnostics.look import Amounts, diagnose
    from eval.diagnostics.page import compose
    from eval.log import device_description, read_log, versions
    from eval.run import load_run
    from jaxmodels import count_parameters

    distances = flags.distances or ([0, 64] if flags.brief else [0, 16, 64, 256])
    distances = tuple(sorted(set(distances)))
    rows = (160 if flags.brief else 480) if flags.rows is None else flags.rows
    if distances[0] < 0:
        raise UserError(f"--distances {distances[0]}: tokens cannot be fewer than 0")
    if rows < 30:
        raise UserError(f"--rows={rows}: a probe needs 30 examples or more")
    out = Path(flags.json) if flags.json else Path(flags.workdir) / "diagnostics.json"
    if flags.json and not out.parent.is_dir():
        raise UserError(f"--json {out}: there is no folder {out.parent}; make it first")
    start = time.perf_counter()
    paths = tuple(flags.data) if flags.data else None
    run = load_run(flags.workdir, checkpoint=flags.checkpoint, paths=paths)
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
    result = finite(result)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = out.with_name(out.name.removesuffix(".new").removesuffix(".json") + ".html")
    page.write_text(compose(result, Path(flags.workdir).resolve().name), encoding="utf-8")
    return result, [out, page]


def finite(value):
    """The same with what JSON cannot say as words: "inf", "nan"."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what} ...", end="", file=sys.stderr, flush=True)


def _show(result: dict, paths: list[Path]) -> None:
    from rich.console import Console

    from eval.diagnostics.page import rich_table

    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    console = Console()
    console.print(rich_table(result))
    for text in result["missing"]:
        console.print(text, style="dim")
    seconds = f"{result['seconds']:.1f} s on {result['device']}"
    wrote = ", ".join(map(str, paths))
    console.print(f"{seconds}; wrote {wrote}", style="dim", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
