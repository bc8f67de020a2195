"""Short runs with one thing changed at a time, over several seeds, and a table of what it did.

    python -m eval.ablate --config=configs/prernk.py --workdir=runs/ablate --steps 300 --seeds 0 1 2
                          [--set NAME FIELD=VALUE ...] [--only NAME ...] [--config.FIELD=VALUE ...]

An ablation is a name and the config fields it changes. A config file lists its own in
`get_ablations()` (name -> {field: value}, fields as after `--config.`); `--set` adds one. The first
is the one that the others are compared with. Every run has its folder, `workdir/<name>/seed<k>`; a
finished one is not run again and an unfinished one is resumed, so the command may be stopped and
repeated at will. Writes `ablations.json` and `ablations.html`.
"""

import argparse
import importlib.util
import json
import math
import re
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.log import Log, device_description, read_log, versions
from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags
from train.config import apply_overrides, differences, load_config, read_config, validate_config

Ablations = Mapping[str, Mapping[str, Any]]
EVALUATIONS = 10  # a run, evenly spaced: early trouble shows in their mean


def read_ablations(path: str | Path) -> dict[str, dict[str, Any]]:
    """What `get_ablations()` of a config file returns; {} if it has none."""
    spec = importlib.util.spec_from_file_location("ablations_of", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = getattr(module, "get_ablations", dict)()
    return {name: dict(changes) for name, changes in listed.items()}


def planned_config(path: str, overrides: Sequence[str], changes: Mapping[str, Any], steps, seed):
    """The complete config of one run.

    Raises:
        UserError: a field that does not exist or a value it refuses.
    """
    config = load_config(path, overrides)
    arguments = []
    for name, value in changes.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        arguments.append(f"--config.{name}={text}")
    apply_overrides(config, arguments)
    if steps is not None:
        config.steps = steps
        # A warm-up as long as the run would be all there is.
        config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 10)
    config.seed = seed
    config.eval_every = max(1, config.steps // EVALUATIONS)
    config.log_every = min(config.log_every, config.eval_every)
    config.checkpoint_every = max(1, config.steps // 2)
    config.keep_last, config.keep_best = 1, 0
    validate_config(config)
    return config


def run_once(config, workdir: Path, say=print) -> Log:
    """Trains into a folder unless it holds the finished run already.

    Raises:
        UserError: the folder holds a run of another config.
    """
    import jax

    from train.api import train_text_corpus

    if (workdir / "config.json").exists():
        old = read_config(workdir / "config.json")
        # What is resolved from the data when a run starts is 0 before.
        same = {"model_config.vocab_size"}
        if changed := [name for name in differences(old, config) if name not in same]:
            raise UserError(
                f"{workdir}: holds a run with another {', '.join(changed)}; name another --workdir"
            )
        log = read_log(workdir)
        if log.final or log.stopped:
            say(f"{workdir}: finished before")
            return log
    start = time.perf_counter()
    result = train_text_corpus(workdir=workdir, config=config, resume=workdir.exists(), quiet=True)
    jax.clear_caches()  # the next run compiles a program of its own
    if result.status == "interrupted":
        raise KeyboardInterrupt
    log = read_log(workdir)
    bits = log.bits_per_byte("valid")[1]
    outcome = result.message or (f"{bits[-1]:.4f} bits per byte" if bits else "no validation")
    say(f"{workdir}: {outcome} ({time.perf_counter() - start:.0f} s)")
    return log


def summarise(logs: Mapping[str, Sequence[Log]]) -> list[dict[str, Any]]:
    """One row an ablation: final and mean validation bits per byte, largest gradient norm, and
    spreads.

    Spread is the sample standard deviation over seeds (0 for a single seed). A run that ceased to
    be finite counts as `halted` and in no mean. `change` is against the first row.
    """
    rows = []
    for name, runs in logs.items():
        whole = [log for log in runs if log.final and log.bits_per_byte("valid")[1]]
        final = [log.bits_per_byte("valid")[1][-1] for log in whole]
        along = [statistics.fmean(log.bits_per_byte("valid")[1]) for log in whole]
        grads = [max(log.series("train", "grad_norm")[1], default=math.nan) for log in whole]
        row = {"name": name, "runs": len(runs), "halted": len(runs) - len(whole), "finals": final}
        for key, values in (("final", final), ("along", along), ("grad_norm", grads)):
            row[key] = statistics.fmean(values) if values else None
            row[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
        reference = rows[0]["final"] if rows else row["final"]
        known = reference is not None and row["final"] is not None
        row["change"] = row["final"] - reference if known else None
        rows.append(row)
    return rows


def write_page(workdir: Path, result: Mapping[str, Any], logs: Mapping[str, Sequence[Log]]) -> Path:
    """`ablations.html`: bars, curves of the first seed, the table, and what each run changed."""
    from eval import figures, page

    rows = result["rows"]
    known = [row for row in rows if row["final"] is not None]
    parts = [
        page.heading(
            f"Ablations · {result['config']}", f"{result['steps']} steps, seeds {result['seeds']}"
        ),
        page.paragraph(
            "Validation bits per byte after the same number of steps on the same text; lower is "
            "better. "
            f"Compared with “{rows[0]['name']}”; ± is the standard deviation over seeds.",
            "lead",
        ),
    ]
    if known and known[0] is rows[0]:
        values = {row["name"]: (row["final"], row["final_spread"]) for row in known}
        figure = figures.bars(values, xlabel="bits per byte", origin=rows[0]["final"])
        parts.append(
            page.picture(figures.svg(figure, "bars"), "Final value, from that of the first.")
        )
    lines = {name: runs[0].bits_per_byte("valid") for name, runs in logs.items() if runs}
    lines = {name: line for name, line in lines.items() if line[1]}
    if lines:
        figure = figures.curves(lines, ylabel="bits per byte", markers=True, height=3.6)
        parts.append(page.picture(figures.svg(figure, "lines"), "Validation, first seed of each."))
    header = ["", "final", "change", "mean along the run", "largest gradient norm", "halted"]
    cells = [
        [
            row["name"],
            _spread(row, "final"),
            "-" if row["change"] is None else f"{row['change']:+.4f}",
            _spread(row, "along"),
            _spread(row, "grad_norm"),
            f"{row['halted']} of {row['runs']}",
        ]
        for row in rows
    ]
    changes = {
        name: ", ".join(f"{k}={v}" for k, v in fields.items()) or "the config as it is"
        for name, fields in result["ablations"].items()
    }
    made = {"command": result["command"], "device": result["device"]}
    made["versions"] = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    parts += [page.table(header, cells, strong=[0]), page.section("What each changes")]
    parts += [page.facts(changes), page.section("How it was made"), page.facts(made, ("command",))]
    path = workdir / "ablations.html"
    path.write_text(page.page("Ablations", parts), encoding="utf-8")
    return path


def _spread(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    return f"{row[key]:.4f}" + (f" ± {row[key + '_spread']:.4f}" if row["runs"] > 1 else "")


def _folder(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "ablation"


def _chosen(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The ablations of this call, in order."""
    load_config(flags.config)  # says what is wrong with the file
    ablations = read_ablations(flags.config)
    for name, *fields in flags.set or ():
        pairs = [field.partition("=") for field in fields]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise UserError(
                f"--set {name}: write --set NAME FIELD=VALUE, e.g. --set flat seq_len=32"
            )
        ablations[name] = {key: value for key, _, value in pairs}
    if flags.only:
        if unknown := [name for name in flags.only if name not in ablations]:
            raise UserError(
                f"--only {unknown[0]!r}: no such ablation; there is: {', '.join(ablations)}"
            )
        ablations = {name: ablations[name] for name in flags.only}
    if not ablations:
        raise UserError(
            f"--config={flags.config}: it has no get_ablations(); "
            "add one or use --set NAME FIELD=VALUE"
        )
    if len({_folder(name) for name in ablations}) < len(ablations):
        raise UserError(f"ablations {', '.join(ablations)}: two names give the same folder")
    return ablations


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m eval.ablate",
        description="Train short runs with one thing changed at a time and compare them.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="experiment file, e.g. configs/prernk.py")
    parser.add_argument("--workdir", required=True, help="folder for all the runs")
    parser.add_argument("--steps", type=int, help="of every run; default: the config's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", action="append", metavar="NAME FIELD=VALUE")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these ablations only")
    flags, overrides = parser.parse_known_args(arguments)
    try:
        ablations = _chosen(flags)
        plans = {
            (name, seed): planned_config(flags.config, overrides, changes, flags.steps, seed)
            for seed in dict.fromkeys(flags.seeds)
            for name, changes in ablations.items()
        }
        workdir = Path(flags.workdir)
        logs: dict[str, list[Log]] = {name: [] for name in ablations}
        for (name, seed), config in plans.items():
            logs[name].append(run_once(config, workdir / _folder(name) / f"seed{seed}"))
        result = {
            "command": shlex.join(["python", "-m", "eval.ablate", *arguments]),
            "config": flags.config,
            "steps": next(iter(plans.values())).steps,
            "seeds": list(dict.fromkeys(flags.seeds)),
            "ablations": {name: dict(changes) for name, changes in ablations.items()},
            "rows": summarise(logs),
            "device": device_description(),
            "versions": versions(),
        }
        (workdir / "ablations.json").write_text(
            json.dumps(result, indent=2) + "\n", encoding="utf-8"
        )
        show(result, write_page(workdir, result, logs))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def show(result: Mapping[str, Any], page_path: Path) -> None:
    """The rows as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['steps']} steps, seeds {result['seeds']}", title_justify="left")
    for column in ("ablation", "bits per byte", "change", "mean along the run", "max grad norm"):
        table.add_column(column, justify="left" if column == "ablation" else "right")
    for row in result["rows"]:
        change = "-" if row["change"] is None else f"{row['change']:+.4f}"
        name = row["name"] + (f" ({row['halted']} halted)" if row["halted"] else "")
        table.add_row(
            name, _spread(row, "final"), change, _spread(row, "along"), _spread(row, "grad_norm")
        )
    console = Console()
    console.print(table)
    console.print(f"wrote {page_path}", style="dim", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
