"""Train and measure runs that answer questions, and put them side by side.

    python -m eval.compare --config=configs/hrlm/claims.py --workdir=runs/claims [--seeds 0 1 2]
                           [--only NAME ...] [--data PATH ...] [--report] [--config.FIELD=VALUE ...]

The file names them: get_comparison() gives {"runs": name -> (config file, {field: value})}, and
perhaps {"memory": preset -> (rows, tokens a row, GB of a card)}. Each run has a folder of its own,
workdir/<name>/seed<k>, and is trained and measured as `python -m train` and `python -m eval` do;
what is finished is kept, what is half done goes on, so the command may be stopped and repeated at
will. Writes compare.json, compare.md and compare.html: scores by seed, of puzzles by how many
blanks they have, and where a system's authors named a number for a run, that number beside it
(eval/compare/claims.py).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from eval.compare import claims, memory, runs, table
from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="file that defines get_comparison()")
    add("--workdir", required=True, help="folder for all the runs")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help='train these runs alone; "memory" for that of presets',
    )
    add("--data", nargs="+", metavar="PATH", help="files of all runs")
    add("--report", action="store_true", help="train nothing, write from what there is")
    flags, overrides = parser.parse_known_args(arguments)
    command = shlex.join(["python", "-m", "eval.compare", *arguments])
    try:
        for path in _run(flags, overrides, command):
            print(f"wrote {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped, what was done is saved; go on with\n  {command}", file=sys.stderr)
        return 130
    return 0


def _run(flags: argparse.Namespace, overrides: list[str], command: str) -> list[str]:
    workdir = Path(flags.workdir)
    planned, presets = runs.read_runs(
        flags.config, flags.seeds, flags.only, overrides, flags.data or ()
    )
    if not flags.report:
        workdir.mkdir(parents=True, exist_ok=True)
        for run in planned:  # seed by seed: cut short, each has been run once
            if not flags.only or run.name in flags.only:
                runs.train_and_measure(run, workdir, command)
        if not flags.only or runs.MEMORY in flags.only:
            memory.measure(presets, workdir / "memory.json")
    result: dict[str, Any] = {"command": command, "seeds": flags.seeds}
    result["names"] = list(dict.fromkeys(run.name for run in planned))
    result["runs"] = [found for run in planned if (found := runs.outcome(run, workdir))]
    result["memory"] = memory.read(workdir / "memory.json")
    if not result["runs"]:
        raise UserError(f"--workdir={workdir}: no run has been measured yet; leave out --report")
    result["claims"] = claims.judge(result)
    path = workdir / "compare.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table.show(result)
    return [str(path), *table.write(result, workdir)]


if __name__ == "__main__":
    sys.exit(main())
