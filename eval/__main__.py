"""Measure a trained run.

    python -m eval --workdir=runs/name [--split valid test] [--data PATH ...]
                   [--checkpoint best|last|STEP] [--max-bytes N] [--whole-documents]

Writes `eval.json` into the run's folder, refreshes `report.html`, and prints a table: bits per byte
and perplexity, every loss and accuracy of the model, and the byte-Markov baselines on the same
text.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from jaxmodels.errors import UserError

SPLITS = ("valid", "test")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m eval", description="Measure a trained run.")
    parser.add_argument("--workdir", required=True, help="folder of a run, e.g. runs/prernk")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--data", nargs="+", help="other text files, folders or globs")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step")
    parser.add_argument("--batch-size", type=int, default=32, help="rows read side by side")
    parser.add_argument("--max-bytes", type=int, help="at most about this much of each split")
    parser.add_argument("--whole-documents", action="store_true", help="cut no document (slower)")
    flags = parser.parse_args(arguments)
    try:
        result = run_evaluation(flags, command=shlex.join(["python", "-m", "eval", *arguments]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    show(result)
    return 0


def run_evaluation(flags: argparse.Namespace, command: str) -> dict:
    """Evaluates, writes eval.json (not for other text than the run's) and the report."""
    from eval.log import device_description, versions
    from eval.metrics import evaluate
    from eval.report import write_report
    from eval.run import load_run, markov_baselines
    from jaxmodels import count_parameters
    from jaxmodels.data import take
    from train.data import labeller_of

    if flags.batch_size < 1:
        raise UserError(f"--batch-size={flags.batch_size}: give 1 or more")
    if flags.max_bytes is not None and flags.max_bytes < 2:
        raise UserError(f"--max-bytes={flags.max_bytes}: give 2 or more")
    start = time.perf_counter()
    paths = tuple(flags.data) if flags.data else None
    run = load_run(flags.workdir, checkpoint=flags.checkpoint, paths=paths)
    splits = {}
    for split in flags.split:
        documents = take(getattr(run.corpus, split), flags.max_bytes)
        scores = evaluate(
            run.model,
            documents,
            batch_size=flags.batch_size,
            whole_documents=flags.whole_documents,
            labels=labeller_of(run.config),
            progress=_progress(split),
        )
        splits[split] = scores.flat() | {"bytes": scores.num_bytes}
    levels, note = {}, None
    try:
        levels = markov_baselines(run.corpus)
    except UserError as error:
        note = str(error)
    result = {
        "command": command,
        "model": run.config.model,
        "step": run.step,
        "averaged": run.averaged,
        "parameters": count_parameters(run.model),
        "corpus": run.corpus.name,
        "corpus_split": run.corpus.split,
        "whole_documents": flags.whole_documents,
        "max_bytes": flags.max_bytes,
        "splits": splits,
        "baselines": levels,
        "baselines_note": note,
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    workdir = Path(flags.workdir)
    name = "eval.json" if paths is None else "eval_other.json"
    (workdir / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    result["written"] = [str(workdir / name)]
    if paths is None:
        result["written"].append(str(write_report(workdir)))
    return result


def _progress(split: str):
    """A counter on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{split}: {done:,} of {total:,} tokens", end=end, file=sys.stderr, flush=True)

    return show


def show(result: dict) -> None:
    """The result as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    splits = result["splits"]
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    table = Table(title=title, title_justify="left")
    table.add_column("mean over targets")
    for split in splits:
        table.add_column(split, justify="right")

    def row(name, values, style=None):
        cells = (f"{v:,.4f}" if isinstance(v, float) else str(v) for v in values)
        table.add_row(name, *cells, style=style)

    names = dict.fromkeys(name for scores in splits.values() for name in scores)
    for name in names:
        style = "bold" if name == "bits_per_byte" else None
        row(name, [splits[split].get(name, "-") for split in splits], style)
    table.add_section()
    for name in ("unigram", "order-1", "order-2"):
        levels = [result["baselines"].get(split, {}).get(name, "-") for split in splits]
        if result["baselines"]:
            row(f"byte-Markov, {name}", levels, "dim")
    console = Console()
    console.print(table)
    if result["baselines_note"]:
        console.print(result["baselines_note"], style="dim")
    seconds = f"{result['seconds']:.1f} s on {result['device']}"
    console.print(f"{seconds}; wrote {', '.join(result['written'])}", style="dim", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
