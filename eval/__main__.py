"""Measure a trained run.

    python -m eval --workdir=runs/name [--split valid test] [--data PATH ...]
                   [--checkpoint best|last|STEP] [--max-bytes N] [--whole-documents]
                   [--max-pairs N] [--max-steps N]

Of a run on text it writes `eval.json` into the run's folder, refreshes `report.html`, and prints a
table: bits per byte and perplexity, every loss and accuracy of the model, and the byte-Markov
baselines on the same text. Of a run that answers questions it writes `answers.json`: exact matches
on seen and unseen questions, BLEU, chrF, ROUGE-L or right cells, thinking steps, speed.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags

SPLITS = ("valid", "test")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m eval", description="Measure a trained run.")
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a run, e.g. runs/prernk")
    add("--split", nargs="+", choices=SPLITS, default=list(SPLITS))
    add("--data", nargs="+", help="other text files, folders or globs")
    add("--checkpoint", default="best", help="best, last, or a step")
    add("--batch-size", type=int, default=32, help="rows read side by side")
    add("--max-bytes", type=int, help="at most about this much of each split")
    add("--whole-documents", action="store_true", help="cut no document (slower)")
    add("--max-pairs", type=int, default=1000, help="questions of each split at most; 0 = all")
    add("--max-steps", type=int, help="rounds of thinking; by default as trained")
    flags = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "eval", *arguments])
    try:
        if answers_questions(flags.workdir):
            show_answers(*run_answers(flags, command))
            return 0
        result = run_evaluation(flags, command=command)
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


def answers_questions(workdir: str) -> bool:
    """Whether a run is about questions and answers."""
    from eval.log import read_log
    from train.config import PAIR_FORMATS

    return read_log(workdir).config.get("data", {}).get("format") in PAIR_FORMATS


def run_answers(flags: argparse.Namespace, command: str) -> tuple[dict, list[str]]:
    """-> (what `answers.json` holds, paths of what was written)."""
    from eval.answers.measure import measure, write

    if flags.data or flags.max_bytes or flags.whole_documents:
        raise UserError("--data, --max-bytes and --whole-documents are for runs on text")
    if flags.max_pairs < 0:
        raise UserError(f"--max-pairs={flags.max_pairs}: give 1 or more, or 0 for all")
    result = measure(
        flags.workdir,
        checkpoint=flags.checkpoint,
        most=flags.max_pairs or None,
        batch_size=flags.batch_size,
        max_steps=flags.max_steps,
        command=command,
        progress=lambda split: _progress(split, "questions"),
    )
    return result, write(flags.workdir, result)


def show_answers(result: dict, written: list[str]) -> None:
    """The result as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    from eval.answers.page import NAMES, lead, shown

    splits = result["splits"]
    title = f"{result['model']}, step {result['step']}, {result['parameters']:,} parameters"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    for name, label in NAMES.items():
        if name in splits["unseen"]:
            table.add_row(label, *(shown(name, splits[split][name]) for split in splits))
    console = Console()
    console.print(table)
    console.print(lead(result))
    speed = result["speed"]
    console.print(
        f"one question {speed['latency_ms']:.1f} ms, {speed['questions_per_second']:,.0f} "
        f"questions a second ({speed['batch_size']} at a time); {result['seconds']:.1f} s on "
        f"{result['device']}; wrote {', '.join(written)}",
        style="dim",
        soft_wrap=True,
    )


def _progress(split: str, unit: str = "tokens"):
    """A counter on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{split}: {done:,} of {total:,} {unit}", end=end, file=sys.stderr, flush=True)

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
