"""`matrix.html` and `matrix.md`: the answers first, then what they rest on."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from eval import figures, page
from eval.matrix.answers import HELPS, HURTS, RULE, SAME, number, summaries
from eval.matrix.results import of_entry

Result = Mapping[str, Any]
ALSO = " ✓"  # survives the false discovery rate
GROUPS = {
    "tier1": "Tier 1: depth and the anchor",
    "tier2": "Tier 2: sizes, scales and layouts",
    "tier3": "Tier 3: against the baselines",
    "assumption": "Untested assumptions",
    "rates": "Other learning rates: is the comparison fair?",
}


def compose(result: Result) -> str:
    """The page as text, from what `matrix.json` holds."""
    title = f"Matrix · {result['config']}"
    entries = result["entries"]
    tokens = next(iter(entries.values()))["tokens"]
    subtitle = f"{len(entries)} entries x seeds {result['seeds']}, {tokens:,} tokens each"
    parts = [
        page.heading(title, f"{subtitle} · {result['preset']}"),
        page.paragraph(lead(result), "lead"),
        *_answers(result),
        *_diagnosis(result),
        *_curves(result),
        *_tables(result),
        *_runs(result),
        *_made(result),
    ]
    return page.page(title, parts)


def lead(result: Result) -> str:
    """How many questions were answered, and how many runs that took."""
    verdicts = [answer["verdict"] for answer in result["answers"].values()]
    ended = sum(run["final"] is not None for run in result["runs"])
    return (
        f"{len(verdicts)} questions: {verdicts.count(HELPS)} times yes, "
        f"{verdicts.count(HURTS)} times the contrary, {verdicts.count(SAME)} times the seeds do "
        f"not tell the two apart, {len(verdicts) - sum(map(verdicts.count, (HELPS, HURTS, SAME)))}"
        f" not known. {ended} of {len(result['runs'])} runs finished. "
        f"All numbers are validation {result['unit']}; lower is better."
    )


def _answers(result: Result) -> list[str]:
    parts = [page.section("Answers"), page.paragraph(RULE)]
    answers = result["answers"]
    shown = {
        answer["text"]: (answer["difference"], answer["high"] - answer["difference"])
        for answer in answers.values()
        if answer["p"] is not None
    }
    if shown:
        figure = figures.bars(shown, xlabel=f"{result['unit']}, with minus without", origin=0.0)
        caption = "Difference and its interval at 95 %. Left of 0: yes."
        parts.append(page.picture(figures.svg(figure, "answers"), caption))
    header = ["", "answer", "difference", "interval at 95 %", "unpaired", "in spreads", "seeds"]
    parts.append(page.table(header, [_answer_row(answer) for answer in answers.values()]))
    parts += [page.facts({a["text"]: a["words"] for a in answers.values()})]
    return parts


def _answer_row(answer: Mapping[str, Any]) -> list[str]:
    words = {HELPS: "yes", HURTS: "no, worse"}.get(answer["verdict"], answer["verdict"])
    joint = answer["p_jointly"] is not None and answer["p_jointly"] < 0.05
    interval = unpaired = "-"
    if answer["p"] is not None:
        interval = f"{answer['low']:+.4f} to {answer['high']:+.4f}"
    if answer["unpaired"] is not None:
        unpaired = "{:+.4f} to {:+.4f}".format(*answer["unpaired"])
    return [
        answer["text"],
        words + (ALSO if joint and answer["verdict"] in (HELPS, HURTS) else ""),
        number(answer["difference"], sign=True),
        interval,
        unpaired,
        "-" if answer["in_spreads"] is None else f"{answer['in_spreads']:+.1f}",
        f"{answer['with_seeds']}, {answer['without_seeds']}",
    ]


def _diagnosis(result: Result) -> list[str]:
    if not result["diagnosed"]:
        return []
    words = result["diagnosed"]["words"]
    return [page.section("The hybrid against its two baselines"), page.paragraph(words)]


def _curves(result: Result) -> list[str]:
    """A picture a group, the baseline in each."""
    parts, baseline = [page.section("Along the runs")], next(iter(result["entries"]))
    for group, title in GROUPS.items():
        names = [name for name, entry in result["entries"].items() if entry["group"] == group]
        lines = {}
        for name in dict.fromkeys([baseline, *names]):
            if (band := _band(result, name)) is not None:
                lines[name] = band
        if set(lines) - {baseline}:
            figure = figures.bands(lines, ylabel=result["unit"])
            caption = f"{title}. Means over seeds; the bands reach from the best to the worst seed."
            parts.append(page.picture(figures.svg(figure, f"curves_{group}"), caption))
    return parts if len(parts) > 1 else []


def _band(result: Result, name: str):
    """(steps, values (seeds, steps)) of an entry's finished runs, or None."""
    runs = [run["valid"] for run in of_entry(result, name) if run["final"] is not None]
    if not runs:
        return None
    steps = runs[0]["steps"]
    return steps, np.array([run["values"] for run in runs if run["steps"] == steps])


def _tables(result: Result) -> list[str]:
    header = ["", result["unit"], "from the baseline", "parameters", "runs", "seconds a run"]
    changes = {}
    for name, entry in result["entries"].items():
        listed = ", ".join(f"{field}={value}" for field, value in entry["changes"].items())
        matched = f" ({entry['match']} matched to the baseline's size)" if entry["match"] else ""
        changes[name] = f"{entry['says']}. {listed}{matched}".strip(". ")
    return [
        page.section("Entries"),
        page.table(header, _entry_rows(result), strong=[0]),
        page.facts(changes),
    ]


def _entry_rows(result: Result) -> list[list[str]]:
    rows, first = [], None
    for row in summaries(result):
        first = first or row["parameters"]
        spread = "" if row["spread"] is None else f" ± {row['spread']:.4f}"
        halted = f", {row['halted']} halted" if row["halted"] else ""
        rows.append(
            [
                row["entry"],
                number(row["mean"]) + spread,
                number(row["change"], sign=True),
                f"{row['parameters']:,} ({row['parameters'] / first - 1:+.1%})",
                f"{row['finished']} of {row['runs']}{halted}",
                f"{row['seconds']:.0f}",
            ]
        )
    return rows


def _runs(result: Result) -> list[str]:
    header = ["", "seed", "state", "final", "perplexity", "step", "largest gradient", "seconds"]
    rows = []
    for run in result["runs"]:
        final = run["final"]
        largest = max(run["train"].get("grad_norm", {}).get("values", ()), default=math.nan)
        rows.append(
            [
                run["entry"],
                str(run["seed"]),
                run["state"],
                number(final),
                "-" if final is None else f"{2**final:.3f}",
                str(run["step"]),
                f"{largest:.3g}",
                f"{run['seconds']:.0f}",
            ]
        )
    parts = [page.section("All runs"), page.folded("the table", page.table(header, rows))]
    for number_, name in enumerate(result["entries"]):
        if inner := _of_entry(result, name, number_):
            parts.append(page.folded(f"{name}: training curves and diagnostics", inner))
    return parts


def _of_entry(result: Result, name: str, index: int) -> str:
    """What the runs of one entry wrote, behind a line that opens it."""
    runs, parts = of_entry(result, name), []
    names = dict.fromkeys(curve for run in runs for curve in run["train"])
    for place, curve in enumerate(name for name in names if name != "bits_per_byte"):
        lines = {
            f"seed {run['seed']}": tuple(run["train"][curve].values())
            for run in runs
            if run["train"].get(curve, {}).get("values")
        }
        if lines:
            figure = figures.curves(lines, ylabel=curve.replace("_", " "))
            svg = figures.svg(figure, f"entry{index}_{place}")
            parts.append(page.picture(svg, f"{name}, training: {curve}"))
    for run in runs:
        if found := dict(scalars(run["diagnostics"])):
            parts += [page.paragraph(f"Diagnostics, seed {run['seed']}"), page.facts(found)]
    if text := next((run["sample"] for run in runs if run["sample"]), ""):
        parts += [page.paragraph("A sample"), page.text_sample("", printable(text))]
    return "".join(parts)


def printable(text: str) -> str:
    """A hardly trained model utters control characters, which no page should hold."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def scalars(value: Any, prefix: str = ""):
    """(dotted name, text) of the numbers and words in a JSON value; lists are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from scalars(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, bool | str):
        yield prefix, str(value)
    elif isinstance(value, int | float):
        yield prefix, f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def made_of(result: Result) -> dict[str, str]:
    """How the result came about, as words."""
    devices = dict.fromkeys(run["device"] for run in result["runs"] if run["device"])
    trained = sum(run["seconds"] for run in result["runs"])
    return {
        "command": result["command"],
        "device": ", ".join(devices) or result["device"],
        "processes": f"{result['jobs']} side by side",
        "versions": ", ".join(f"{k} {v}" for k, v in result["versions"].items()),
        "seconds": f"{trained:,.0f} in training steps of all runs, compilation included; "
        f"{result['wall_seconds']:,.0f} of the last command",
    }


def _made(result: Result) -> list[str]:
    return [page.section("How it was made"), page.facts(made_of(result), ("command",))]


def markdown(result: Result) -> str:
    """A summary for the documentation."""
    made = made_of(result)
    lines = [lead(result), "", RULE, ""]
    lines += _markdown_table(
        ["question", "answer", "difference", "interval at 95 %", "unpaired", "in spreads", "seeds"],
        [_answer_row(answer) for answer in result["answers"].values()],
    )
    if result["diagnosed"]:
        lines += ["", result["diagnosed"]["words"]]
    lines += [""]
    lines += _markdown_table(
        ["entry", result["unit"], "from the first", "parameters", "runs", "seconds a run"],
        _entry_rows(result),
    )
    lines += ["", f"`{made['command']}`", "", f"{made['device']}; {made['processes']}; "]
    lines[-1] += f"{made['versions']}; {made['seconds']}."
    return "\n".join(lines) + "\n"


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    right = ["---"] + ["---:"] * (len(header) - 1)
    return ["| " + " | ".join(row) + " |" for row in (header, right, *rows)]
