"""Join the tables of heads of several seeds, with the fields' learning curves.

    python -m eval.fields.seeds --workdirs runs/a runs/b runs/c [--out FILE]

Each folder is a run of HFT after `python -m eval.fields`. Prints the mean and the standard
deviation over the seeds of every head's bits.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json


@cli.command()
def main(arguments: list[str]) -> None:
    """Join, print and write."""
    parser = cli.parser("eval.fields.seeds", __doc__)
    parser.add_argument("--workdirs", nargs="+", required=True, metavar="RUN", help=cli.RUN)
    parser.add_argument("--out", action=cli.NewFile, help="JSON file to write")
    options = parser.parse_args(arguments)

    from eval.report.document import Heading, Table, to_terminal

    result = {"command": shlex.join(["python", "-m", "eval.fields.seeds", *arguments])}
    result |= joined(options.workdirs)
    rows = [
        [name, *(f"{row[p]['mean']:.3f} ± {row[p]['sd']:.3f}" for p in PARTS if p in row)]
        for name, row in sorted(result["bits"].items(), key=lambda item: item[1]["valid"]["mean"])
    ]
    curve = [[str(s), f"{v['mean']:.3f} ± {v['sd']:.3f}"] for s, v in result["curve"].items()]
    to_terminal(
        [
            Heading(f"{len(options.workdirs)} seeds: {', '.join(map(str, result['seeds']))}"),
            Table(["head, bits per target", *PARTS], rows),
            Table(["step", "bits per target of validation text"], curve),
        ]
    )
    if options.out:
        cli.write_json(options.out, result)


PARTS = ("valid", "test")


def joined(folders: list[str]) -> dict[str, Any]:
    """Return the bits of every head and the fields' curves, over runs that differ in the seed.

    Raises:
      UserError: a folder without `field.json`, or runs of other steps or examples.
    """
    import math

    from eval.log import read_log

    results, curves = [], []
    for folder in folders:
        path = Path(folder) / "field.json"
        try:
            results.append(decode_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read; run python -m eval.fields first") from error
        rows = [row for row in read_log(folder).rows if row["split"] == "valid"]
        curves.append({r["step"]: r["next_token"] / math.log(2.0) for r in rows})
    for name in ("step", "examples"):
        if len(values := {r.get(name) for r in results}) > 1:
            raise UserError(f"--workdirs: runs differ in {name}: {', '.join(map(str, values))}")
    names = [n for n in results[0]["bits"] if all(n in r["bits"] for r in results)]
    return {
        "seeds": [r["seed"] for r in results],
        "step": results[0]["step"],
        "examples": results[0].get("examples"),
        "contexts": results[0]["contexts"],
        "bits": {
            name: {
                part: _spread([r["bits"][name][part] for r in results])
                for part in PARTS
                if all(part in r["bits"][name] for r in results)
            }
            | {"settings": [r["bits"][name]["setting"] for r in results]}
            for name in names
        },
        "curve": {s: _spread([c[s] for c in curves if s in c]) for s in curves[0]},
        "commands": [r["command"] for r in results],
        "device": results[0]["device"],
        "versions": results[0]["versions"],
        "seconds": [r["seconds"] for r in results],
    }


def _spread(values: list[float]) -> dict[str, Any]:
    """Return the values, their mean and their standard deviation (0 of a single one)."""
    import statistics

    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"each": values, "mean": statistics.fmean(values), "sd": sd}


if __name__ == "__main__":
    sys.exit(main())
