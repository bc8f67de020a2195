"""`matrix.html` and `matrix.md`: the answers first, then what they rest on."""

import math
from collections.abc import Mapping
from typing import Any

from eval.report import figures, html
from eval.sweep import curves, diagnostics_section, lr_fairness, scale_up
from eval.sweep.results import of_entry
from eval.sweep.statistics import HELPS, HURTS, RULE, SAME, number, summaries

Result = Mapping[str, Any]
ALSO = " ✓"  # survives the false discovery rate


def compose(result: Result) -> str:
    """The page as text, from what `matrix.json` holds."""
    title = f"Matrix · {result['config']}"
    entries = result["entries"]
    tokens = next(iter(entries.values()))["tokens"]
    subtitle = f"{len(entries)} entries x seeds {result['seeds']}, {tokens:,} tokens each"
    parts = [
        html.heading(title, f"{subtitle} · {result['preset']}"),
        html.paragraph(lead(result), "lead"),
        *_answers(result),
        *_diagnosis(result),
        *_fairness(result),
        *_growth(result),
        *curves.sections(result),
        *_tables(result),
        *diagnostics_section.sections(result),
        *_runs(result),
        *_made(result),
    ]
    return html.page(title, parts)


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
    parts = [html.section("Answers"), html.paragraph(RULE)]
    answers = result["answers"]
    shown = {
        answer["text"]: (answer["difference"], answer["high"] - answer["difference"])
        for answer in answers.values()
        if answer["p"] is not None
    }
    if shown:
        figure = figures.bars(shown, xlabel=f"{result['unit']}, with minus without", origin=0.0)
        caption = "Difference and its interval at 95 %. Left of 0: yes."
        parts.append(html.picture(figures.svg(figure, "answers"), caption))
    header = ["", "answer", "difference", "interval at 95 %", "unpaired", "in spreads", "seeds"]
    parts.append(html.table(header, [_answer_row(answer) for answer in answers.values()]))
    parts += [html.facts({a["text"]: a["words"] for a in answers.values()})]
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
        number(answer["difference"], sign=True) + _relative(answer),
        interval,
        unpaired,
        "-" if answer["in_spreads"] is None else f"{answer['in_spreads']:+.1f}",
        f"{answer['with_seeds']}, {answer['without_seeds']}",
    ]


def _relative(answer: Mapping[str, Any]) -> str:
    """The difference as a share of what it is held against, which must lie above zero."""
    other = answer["without_mean"]
    if answer["difference"] is None or other is None or not other > 0:
        return ""
    return f" ({answer['difference'] / other:+.1%})"


def _fairness(result: Result) -> list[str]:
    header, rows = lr_fairness.rate_rows(result)
    if not rows:
        return []
    parts = [html.section("Is one learning rate fair?"), html.paragraph(lr_fairness.NOTE)]
    parts.append(html.table(header, rows))
    header, rows = lr_fairness.question_rows(result)
    parts += [html.table(header, rows)] if rows else []
    return [*parts, *(html.paragraph(said) for said in lr_fairness.words(result))]


def _growth(result: Result) -> list[str]:
    found = scale_up.criteria(result)
    return [html.section("Taken together"), html.facts(found)] if found else []


def _diagnosis(result: Result) -> list[str]:
    if not result["diagnosed"]:
        return []
    words = result["diagnosed"]["words"]
    return [html.section("The hybrid against its two baselines"), html.paragraph(words)]


def _tables(result: Result) -> list[str]:
    header = ["", result["unit"], "from the baseline", "parameters", "runs", "seconds a run"]
    changes = {}
    for name, entry in result["entries"].items():
        listed = ", ".join(f"{field}={value}" for field, value in entry["changes"].items())
        matched = f" ({entry['match']} matched to the baseline's size)" if entry["match"] else ""
        changes[name] = f"{entry['says']}. {listed}{matched}".strip(". ")
    return [
        html.section("Entries"),
        html.table(header, _entry_rows(result), strong=[0]),
        html.facts(changes),
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
    parts = [html.section("All runs"), html.folded("the table", html.table(header, rows))]
    for number_, name in enumerate(result["entries"]):
        if inner := _of_entry(result, name, number_):
            parts.append(html.folded(f"{name}: training curves and diagnostics", inner))
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
            parts.append(html.picture(svg, f"{name}, training: {curve}"))
    parts.append(diagnostics_section.of_runs(runs))
    if text := next((run["sample"] for run in runs if run["sample"]), ""):
        parts += [html.paragraph("A sample"), html.text_sample("", html.printable(text))]
    return "".join(parts)


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
    return [html.section("How it was made"), html.facts(made_of(result), ("command",))]


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
    header, rows = lr_fairness.rate_rows(result)
    if rows:
        lines += [
            "",
            lr_fairness.NOTE,
            "",
            *_markdown_table(header, rows),
            "",
            *lr_fairness.words(result),
        ]
    lines += ["", *(f"* {name}: {said}" for name, said in scale_up.criteria(result).items())]
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
