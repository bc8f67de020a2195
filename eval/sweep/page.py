"""Pages of a sweep built from `sweep.json`: HTML, Markdown, and a summary for the terminal."""

import math
from collections.abc import Mapping
from typing import Any

from eval.report import figures
from eval.report.document import (
    Block,
    Facts,
    Fold,
    Heading,
    Picture,
    Sample,
    Table,
    Text,
    provenance,
    to_html,
)
from eval.sweep import claims, statistics
from eval.sweep.results import of_entry
from eval.sweep.sections import (
    compute,
    conversations,
    curves,
    diagnostics,
    lr_fairness,
    scale_up,
    scores,
)
from eval.sweep.statistics import number

Result = Mapping[str, Any]


def summary(result: Result) -> list[Block]:
    """Return the blocks of the Markdown page: the answers and their tables."""
    return [*_findings(result), *provenance_of(result)]


def compose(result: Result) -> str:
    """Return the HTML page: the summary, curves, diagnostics and every run."""
    entries, seeds = result["entries"], ", ".join(map(str, result["seeds"]))
    subtitle = f"{len(entries)} entries, seeds {seeds}"
    tokens = {entry["tokens"] for entry in entries.values()}
    subtitle += f", {tokens.pop():,} tokens each" if len(tokens) == 1 else ""
    subtitle += f" · {result['preset']}" if result["preset"] else ""
    blocks = [
        *_findings(result),
        *_answers_in_words(result),
        *curves.section(result),
        *diagnostics.section(result),
        *_runs(result),
        *provenance_of(result),
    ]
    return to_html(f"Sweep · {result['config']}", blocks, subtitle)


def brief(result: Result) -> list[Block]:
    """Return the blocks of the summary for the terminal."""
    blocks = [*_claims(result), *scores.section(result), *conversations.section(result)]
    blocks += [entry_table(result), *compute.section(result)]
    return [*blocks, *(Text(f"{a['text']}\n  {a['words']}") for a in result["answers"].values())]


def _findings(result: Result) -> list[Block]:
    return [
        Text(lead(result), "lead"),
        *_claims(result),
        *_answers(result),
        *_diagnosis(result),
        *lr_fairness.section(result),
        *scale_up.section(result),
        *scores.section(result),
        *conversations.section(result),
        *compute.section(result),
        *_entries(result),
    ]


def lead(result: Result) -> str:
    """Return the counts of verdicts and of finished runs as text."""
    verdicts = [answer["verdict"] for answer in result["answers"].values()]
    finished = sum(run["state"] == "finished" for run in result["runs"])
    yes, no, same, unknown = map(verdicts.count, statistics.LABELS)
    counts = (
        f"{len(verdicts)} questions: {yes} yes, {no} no (worse), {same} not distinguishable, "
        f"{unknown} not known. "
    )
    return (counts if verdicts else "") + (
        f"{finished} of {len(result['runs'])} runs finished. "
        f"All numbers are validation {result['unit']}; lower is better."
    )


def _claims(result: Result) -> list[Block]:
    rows = result.get("claims")
    if not rows:
        return []
    words = f"{claims.lead(rows, result['seeds'])} {result['claims_note']}".strip()
    cells = [[row[key] or "" for key in claims.COLUMNS] for row in rows]
    table = Table(list(claims.COLUMNS.values()), cells, left=range(len(claims.COLUMNS)))
    return [Heading("Claimed and measured"), Text(words), table]


def _answers(result: Result) -> list[Block]:
    answers = result["answers"].values()
    if not answers:
        return []
    blocks = [Heading("Answers"), Text(statistics.RULE)]
    bars = {
        answer["text"]: (answer["difference"], answer["high"] - answer["difference"])
        for answer in answers
        if answer["p"] is not None
    }
    if bars:
        figure = figures.bars(bars, xlabel=f"{result['unit']}, with minus without", origin=0.0)
        caption = "Difference with its 95 % interval. Left of 0: yes."
        blocks.append(Picture(figures.svg(figure, "answers"), caption))
    header = ["", "answer", "difference", "95 % interval", "unpaired", "in spreads", "seeds"]
    return [*blocks, Table(header, [_answer_row(answer) for answer in answers], left=(0, 1))]


def _answers_in_words(result: Result) -> list[Block]:
    words = {answer["text"]: answer["words"] for answer in result["answers"].values()}
    return [Fold("the answers in words", [Facts(words)])] if words else []


def _answer_row(answer: Mapping[str, Any]) -> list[str]:
    unpaired = answer["unpaired"]
    return [
        answer["text"],
        statistics.LABELS[answer["verdict"]] + (" ✓" if statistics.significant(answer) else ""),
        number(answer["difference"], sign=True) + _relative(answer),
        statistics.interval(answer),
        "-" if unpaired is None else "{:+.4f} to {:+.4f}".format(*unpaired),
        "-" if answer["in_spreads"] is None else f"{answer['in_spreads']:+.1f}",
        f"{answer['with_seeds']}, {answer['without_seeds']}",
    ]


def _relative(answer: Mapping[str, Any]) -> str:
    """Format the difference relative to the mean without, if that is positive."""
    other = answer["without_mean"]
    if answer["difference"] is None or other is None or not other > 0:
        return ""
    return f" ({answer['difference'] / other:+.1%})"


def _diagnosis(result: Result) -> list[Block]:
    if not result["diagnosed"]:
        return []
    return [Heading("The hybrid and its two baselines"), Text(result["diagnosed"]["words"])]


def _entries(result: Result) -> list[Block]:
    changes = {}
    for name, entry in result["entries"].items():
        listed = ", ".join(f"{field}={value}" for field, value in entry["changes"].items())
        matched = f" ({entry['match']} matched to the baseline's size)" if entry["match"] else ""
        changes[name] = f"{entry['says']}. {listed}{matched}".strip(". ") or "unchanged config"
    return [Heading("Entries"), entry_table(result), Facts(changes)]


def entry_table(result: Result) -> Table:
    """Return one row per entry: means over seeds ± sample standard deviation."""
    header = ["", result["unit"], "from baseline", "mean over training", "max gradient norm"]
    header += ["parameters", "runs", "seconds per run"]
    rows, first = [], None
    for row in statistics.summaries(result):
        first = first or row["parameters"]
        halted = f", {row['halted']} halted" if row["halted"] else ""
        means = [_spread(row, key) for key in ("mean", "along", "grad_norm")]
        rows.append([row["entry"], means[0], number(row["change"], sign=True), *means[1:]])
        rows[-1] += [
            f"{row['parameters']:,} ({row['parameters'] / first - 1:+.1%})",
            f"{row['finished']} of {row['runs']}{halted}",
            f"{row['seconds']:.0f}",
        ]
    return Table(header, rows, styles={0: "strong"})


def _spread(row: Mapping[str, Any], key: str) -> str:
    value, spread = row[key], row[f"{key}_spread"]
    digits = ".3g" if key == "grad_norm" else ".4f"
    if value is None:
        return "-"
    return f"{value:{digits}}" + ("" if spread is None else f" ± {spread:{digits}}")


def _runs(result: Result) -> list[Block]:
    header = ["", "seed", "state", "final", "perplexity", "step", "max gradient norm", "seconds"]
    rows = []
    for run in result["runs"]:
        final = run["final"]
        largest = max(run["train"].get("grad_norm", {}).get("values", ()), default=math.nan)
        perplexity = "-" if final is None else f"{2**final:.3f}"
        rows.append([run["entry"], str(run["seed"]), run["state"], number(final), perplexity])
        rows[-1] += [str(run["step"]), f"{largest:.3g}", f"{run['seconds']:.0f}"]
    blocks = [Heading("All runs"), Fold("table", [Table(header, rows)])]
    for index, name in enumerate(result["entries"]):
        if inner := _of_entry(result, name, index):
            blocks.append(Fold(f"{name}: training curves and diagnostics", inner))
    return blocks


def _of_entry(result: Result, name: str, index: int) -> list[Block]:
    """Return the training curves, gates and a sample of one entry's runs."""
    runs, blocks = of_entry(result, name), []
    names = dict.fromkeys(curve for run in runs for curve in run["train"])
    for position, curve in enumerate(name for name in names if name != "bits_per_byte"):
        lines = {
            f"seed {run['seed']}": tuple(run["train"][curve].values())
            for run in runs
            if run["train"].get(curve, {}).get("values")
        }
        if lines:
            figure = figures.curves(lines, ylabel=curve.replace("_", " "))
            svg = figures.svg(figure, f"entry{index}_{position}")
            blocks.append(Picture(svg, f"{name}, training: {curve}"))
    blocks += diagnostics.gates(runs)
    if text := next((run["sample"] for run in runs if run["sample"]), ""):
        blocks += [Text("Sample"), Sample(text)]
    return blocks


def provenance_of(result: Result) -> list[Block]:
    """Return the section on how the result was produced."""
    devices = dict.fromkeys(run["device"] for run in result["runs"] if run["device"])
    trained = sum(run["seconds"] for run in result["runs"])
    seconds = f"{trained:,.0f} in training steps and compilation of all runs; "
    seconds += f"{result['wall_seconds']:,.0f} in the last command"
    return provenance(
        {"processes": str(result["jobs"]), "seconds": seconds},
        command=result["command"],
        device=", ".join(devices) or result["device"],
        versions=result["versions"],
    )
