"""The page of the diagnostics."""

import math
from collections.abc import Mapping
from typing import Any

from eval.report import figures
from eval.report.document import (
    Block,
    Fold,
    Heading,
    Mark,
    Picture,
    Table,
    Text,
    provenance,
    to_html,
)

MARKS = {"pass": "pass", "warn": "warn", "fail": "FAIL", "skip": "-"}
STYLES = {"pass": "good", "warn": "warn", "fail": "bad", "skip": "dim"}
Result = Mapping[str, Any]


def compose(result: Result, name: str) -> str:
    """Return the HTML page; `name` is the name of the run."""
    title = f"Diagnostics · {result['model']} · {name}"
    subtitle = f"step {result['step']}, {result['parameters']:,} parameters, {result['corpus']}"
    amounts = ", ".join(f"{name} {value}" for name, value in result["amounts"].items())
    blocks = [
        Text(_summary(result), "lead"),
        *(Text(text, "missing") for text in result["missing"]),
        *sections(result),
        *provenance({"amounts": amounts}, **result),
    ]
    return to_html(title, blocks, subtitle)


def gate_table(result: Result) -> Table:
    """Return every gate with its outcome and its finding."""
    rows = [
        [g["gate"], Mark(MARKS[g["outcome"]], STYLES[g["outcome"]]), g["says"]]
        for g in result["gates"]
    ]
    strong = {i: "strong" for i, g in enumerate(result["gates"]) if g["outcome"] == "fail"}
    return Table(["gate", "outcome", "finding"], rows, left=(0, 1, 2), styles=strong)


def sections(result: Result) -> list[Block]:
    """Return the blocks between summary and provenance."""
    blocks: list[Block] = [Heading("Gates"), gate_table(result)]
    for part, draw in (
        ("probes", _probes),
        ("states", _states),
        ("components", _components),
        ("identity", _identity),
    ):
        if part in result:
            blocks += draw(result)
    return blocks


def _summary(result: Result) -> str:
    counts = {
        outcome: sum(g["outcome"] == outcome for g in result["gates"])
        for outcome in ("pass", "warn", "fail")
    }
    text = f"{counts['pass']} gates passed, {counts['warn']} warned, {counts['fail']} failed. "
    memory = [g for g in result["gates"] if g["gate"].startswith("useful memory")]
    return text + " ".join(f"{g['gate'].capitalize()}: {g['says']}." for g in memory)


def _probes(result: Result) -> list[Block]:
    probes = result["probes"]
    distances = [r["distance"] for r in probes["recall"]]
    lines = {"answers": (distances, [r["accuracy"] for r in probes["recall"]])}
    for name in probes["recall"][0]["decoded"]:
        values = [r["decoded"][name]["accuracy"] for r in probes["recall"]]
        lines[f"probe, {name}"] = (distances, values)
    lines["chance"] = (distances, [probes["chance"]] * len(distances))
    figure = figures.curves(
        lines,
        xlabel="tokens between key and question",
        ylabel="accuracy",
        markers=True,
        height=3.2,
    )
    caption = (
        f"Recall of a key of five symbols ({probes['symbols']}) in running text: accuracy of the "
        "model's answers, and of a linear probe on its recurrent state just before the question. "
        "Chance is 1 in 10 for a symbol, 1 in 100,000 for a key. The probe is a lower bound."
    )
    rows = [
        ["τ, answers: tokens until accuracy is 50 %", _number(probes["tau"])],
        ["τ, linear probe", _number(probes["tau_probe"])],
    ]
    rows += _stress(probes) if "forgetting" in probes else []
    return [
        Heading("Memory"),
        Picture(figures.svg(figure, "recall"), caption),
        Table(["", "measured"], rows),
    ]


def _stress(probes: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows on forgetting, state noise and hostile prefixes."""
    forgetting, poison = probes["forgetting"], probes["poisoning"]
    rows = [
        ["η: retained x (1 - leakage)", _number(forgetting["eta"])],
        ["leakage across a reset", _number(forgetting["leakage"])],
        ["leakage without the reset", _number(forgetting["unaided"])],
    ]
    rows += [
        [f"loss rise, state noise {size}", _number(rise)] for size, rise in probes["jitter"].items()
    ]
    for kind, excess in poison["excess"].items():
        after = _number(poison["after_reset"][kind])
        late = _number(poison["late"][kind])
        rows.append(
            [f"loss rise after “{kind}”; late; after reset", f"{_number(excess)}; {late}; {after}"]
        )
    return rows


def _states(result: Result) -> list[Block]:
    layers = result["states"]["layers"]
    if not layers:  # a model without recurrent layers
        return []
    blocks = [Heading("States")]
    for field, label, caption in (
        ("norm", "norm", "Frobenius norm of each layer's state after the text."),
        (
            "cosine",
            "cosine",
            "Mean cosine of consecutive states: 1 for a constant state; a low value can mean "
            "forgetting.",
        ),
    ):
        lines = {}
        for row in layers:
            xs, ys = lines.setdefault(row["component"], ([], []))
            xs.append(row["layer"])
            ys.append(row[field])
        figure = figures.curves(lines, xlabel="layer", ylabel=label, markers=True)
        blocks.append(Picture(figures.svg(figure, f"state-{field}"), caption))
    header = ["layer", "norm", "entropy", "effective rank", "top 5 (noise)", "beyond 5"]
    header += ["cosine", "retention", "W"]
    rows = [
        [
            f"{row['layer']} {row['component']}",
            _number(row["norm"]),
            f"{_number(row['entropy'])} {row['entropy_label']}",
            f"{_number(row['effective_rank'])} ({row['utilisation']:.0%})",
            f"{_number(row['top5_lowest'])} ({_number(row['top5_gaussian'])})",
            f"{row['saturation']:.1%}",
            f"{_number(row['cosine'])} {row['movement']}",
            _number(row["retention"]["mean"]) + _flag(row),
            _number(row["capacity"]),
        ]
        for row in layers
    ]
    return [*blocks, Fold("All layers", [Table(header, rows)])]


def _flag(row: Mapping[str, Any]) -> str:
    flags = [f"collapsed {row['retention']['collapsed']}"] if row["retention"]["collapsed"] else []
    flags += ["output collapsed"] if row.get("output_collapsed") else []
    flags += ["constant step size"] if row.get("selection_constant") else []
    return f" ({', '.join(flags)})" if flags else ""


def _components(result: Result) -> list[Block]:
    gradients, dominance = result["components"]["gradients"], result["components"]["dominance"]
    rows = []
    for name in dict.fromkeys([*gradients, *dominance["rises"]]):
        norms = gradients.get(name, {})
        numbers = (norms.get("raw"), norms.get("rms"), dominance["rises"].get(name))
        rows.append([name, f"{norms.get('count', 0):,}", *map(_number, numbers)])
    header = ["component", "parameters", "gradient norm", "per parameter", "loss rise without it"]
    text = f"Loss {dominance['loss']:.3f}; {dominance['says']}."
    return [Heading("Components"), Table(header, rows), Text(text)]


def _identity(result: Result) -> list[Block]:
    identity, collapse = result["identity"], result["collapse"]
    rows = [
        [f"{name}: rubric score; lock, nats", f"{scores[name]:.3f}; {_number(lock)}"]
        for (name, scores), lock in zip(
            identity["rubric"].items(), identity["persona_lock"].values(), strict=True
        )
    ]
    for name, count in identity["items"].items():
        label = f"{name.replace('_', ' ')}, of {count} (chance 50 %)"
        rows.append([label, f"{identity[name]:.0%}"])
    rows += [
        ["top probability / entropy", _number(collapse["confidence_ratio"])],
        ["signs of mode collapse", ", ".join(collapse["flags"]) or "none"],
    ]
    return [Heading("Identity"), Table(["", "measured"], rows)]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str) or not math.isfinite(value):
        return str(value)
    return f"{value:.4g}"
