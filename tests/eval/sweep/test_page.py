"""Sections of a sweep's page: learning rates, scaling up, curves, diagnostics, scores."""

import numpy as np
import pytest

from eval.report import figures
from eval.report.document import Picture, to_html, to_markdown
from eval.sweep import page
from eval.sweep.sections import curves, diagnostics, lr_fairness, scale_up, scores
from tests.eval.sweep.parts import result_of

QUESTIONS = {"ab": ("a", "b", "Is a better than b?"), "ac": ("a", "c", "Is a better than c?")}


def with_rates(finals, **rate):
    """Entries a, b, c at a rate of 1, and others named "a, x" at the rates given."""
    result = result_of(finals, QUESTIONS)
    for name, entry in result["entries"].items():
        base = name.partition(",")[0]
        entry["changes"] = {} if base == "a" else {"kind": base}
        entry["config"] = {"optimizer": {"learning_rate": 1.0}}
        if name != base:
            value = rate[name.partition(", ")[2]]
            entry |= {"group": "rates", "config": {"optimizer": {"learning_rate": value}}}
            entry["changes"] = entry["changes"] | {lr_fairness.RATE: value}
    return result


def test_answers_at_the_best_rate_of_each_entry():
    finals = {"a": [1.0, 2.0, 3.1], "b": [1.5, 2.3, 3.8], "c": [5.0, 6.0, 7.5]}
    finals |= {"b, half": [0.2, 1.4, 2.2], "b, double": [9.0, 9.0, 9.5]}
    finals |= {"a, half": [1.1, 2.2, 3.3], "a, double": []}
    result = with_rates(finals, half=0.5, double=2.0)
    by_rate = lr_fairness.entries_by_rate(result)
    assert list(by_rate) == ["a", "b"]  # c was run at one rate alone
    assert [row["entry"] for row in by_rate["b"]] == ["b, half", "b", "b, double"]
    table = lr_fairness.rate_table(result)
    header, rows = table.header, table.rows
    assert header == ["learning rate", "0.5", "1", "2"]
    assert rows[0] == ["a", "2.2000", "2.0333 (best)", "-"]
    assert rows[1] == ["b", "1.2667 (best)", "2.5333", "9.1667"]
    (again,) = lr_fairness.answers_at_best(result)  # of a and b; c is at no best
    assert (again["with"], again["without"], again["before"]) == ("a", "b, half", "helps")
    assert again["verdict"] == "hurts"
    assert again["difference"] == pytest.approx(2.0333 - 1.2667, abs=1e-4)
    text = " ".join(lr_fairness.words(result))
    assert "“a” is best at 1, +0.0000 from the common rate; this is the highest rate tried" in text
    assert "“b” is best at 0.5, -1.2667 from the common rate; this is the lowest rate tried" in text
    assert "“Is a better than b?”: helps at the common rate, hurts at the best." in text
    html, text = page.compose(result), to_markdown(page.summary(result))
    assert "Is one learning rate fair?" in html and lr_fairness.NOTE in text
    assert "| b | 1.2667 (best) | 2.5333 | 9.1667 |" in text


def test_interior_optimum_has_no_edge_warning():
    finals = {"a": [1.0, 2.0], "b": [3.0, 4.1], "c": [5.0, 6.0]}
    for name in "ab":
        finals |= {f"{name}, half": [7.0, 8.0], f"{name}, double": [7.0, 8.0]}
    sentences = lr_fairness.words(with_rates(finals, half=0.5, double=2.0))
    assert sentences[0] == "“a” is best at 1, +0.0000 from the common rate."
    assert sentences[-1] == "None of the 1 affected answers changes."


def test_rate_section_is_empty_with_one_rate():
    result = result_of({"a": [1.0, 2.0], "b": [3.0, 4.0]}, {})
    assert lr_fairness.words(result) == lr_fairness.section(result) == []
    assert "fair" not in page.compose(result)


def test_scaling_criteria():
    finals = {"a": [1.0, 2.0, 3.1], "b": [3.0, 4.1, 4.9], "c": [1.2, 1.9, 3.3]}
    result = result_of(finals, QUESTIONS, ("a", "b", "c"))
    assert scale_up.criteria(result)["Does validation diverge?"].endswith("each ends at its best")
    run = result["runs"][4]
    run["valid"]["values"] = [5.0, 2.05, 4.1]
    assert scale_up.last_above_best(run) == pytest.approx(1.0)
    text = scale_up.criteria(result)["Does validation diverge?"]
    assert "1 runs do and need regularization: b, seed 1; maximum +100.0%, b, seed 1" in text
    text = scale_up.criteria(result)[
        "Which differences are significant (5 % false discovery rate)?"
    ]
    assert text == "better: “a” against “b”; worse: none; not known: the other 1"
    for seed, ratio in enumerate((0.5, 2.0, 2.9)):
        result["runs"][seed]["train"] = {
            "grad_norm/rwkv": {"steps": [1, 2, 3, 4], "values": [90.0, 90.0, ratio, ratio]},
            "grad_norm/mamba": {"steps": [1, 2, 3, 4], "values": [1.0] * 4},
        }
    gradients = "Are the gradients of “a” within a factor of 3?"
    text = scale_up.criteria(result)[gradients]
    assert text == "yes: RWKV over Mamba, late in training, by run 0.50, 2.00, 2.90"
    result["runs"][2] |= {"train": {}, "diagnostics": {"components": {"rwkv_over_mamba": None}}}
    assert scale_up.balance(result, "a") == [0.5, 2.0]
    looked = {"components": {"rwkv_over_mamba": {"raw": 3.5}}}
    result["runs"][2]["diagnostics"] = looked
    assert scale_up.criteria(result)[gradients].startswith("no: ")
    assert scale_up.criteria(result_of({"a": []}, {})) == {}
    assert "Does validation diverge?" not in scale_up.criteria(result | {"unit": "% wrong"})


def test_differences_from_the_baseline_are_paired_by_seed():
    first = ([1, 2], {0: np.array([5.0, 4.0]), 1: np.array([6.0, 5.0])})
    other = ([1, 2], {1: np.array([6.5, 4.0]), 2: np.array([9.0, 9.0])})
    np.testing.assert_array_equal(curves.differences(first, other), [[0.5, -1.0]])
    assert len(curves.differences(first, ([1], {0: np.array([5.0])}))) == 0


def test_entries_are_split_over_pictures_by_number_of_colours():
    finals = {f"e{i}": [1.0 + i, 2.0 + i] for i in range(11)}
    blocks = curves.section(result_of(finals, {}))
    # The baseline's ten others in two parts, each once as it is and once less the baseline.
    assert sum(isinstance(block, Picture) for block in blocks) == 4


def diagnostics_of(gradient, rise):
    recall = {"distance": 64, "accuracy": 0.1}
    recall["decoded"] = {"rwkv": {"accuracy": 0.2}, "all": {"accuracy": 0.3}}
    layer = {"component": "rwkv", "norm": 2.0, "cosine": 0.5, "effective_rank": 3.0}
    layer |= {"utilisation": 0.25, "saturation": 0.0, "retention": {"mean": 0.875}}
    gates = [{"gate": "G1 forward", "outcome": "pass", "value": 0.0, "says": ""}]
    gates.append({"gate": "useful memory", "outcome": "fail", "value": 0.125, "says": ""})
    gates.append({"gate": "G5 scale up", "outcome": "skip", "value": None, "says": ""})
    found = {"gates": gates, "missing": ["no answer"], "states": {"layers": [layer]}}
    found["components"] = {"rwkv_over_mamba": {"raw": gradient}}
    found["components"]["dominance"] = {"rises": {"rwkv": rise}}
    return found | {"probes": {"recall": [recall | {"distance": 0}, recall]}}


def test_diagnostics_section():
    result = result_of({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, None]}, {})
    result["runs"][0]["diagnostics"] = diagnostics_of(0.5, 0.25)
    result["runs"][1]["diagnostics"] = diagnostics_of("inf", 0.75)
    table = diagnostics._overview(result)
    (row,) = table.rows
    assert dict(zip(table.header, row, strict=True)) == {
        "": "a",
        "gates passed, warned, failed": "1, 0, 1",
        "gradients": "0.5",  # of the one that is a number
        "without rwkv": "+0.500",
        "probe at 0": "30%",
        "at 64": "30%",
        "answers at 64": "10%",
        "seeds": "2",
    }
    states = [["a: rwkv", "2", "0.5", "3", "0.25", "0", "0.8750"]]
    assert diagnostics._states(result).rows == states
    html = page.compose(result)
    assert "3 finished runs have no diagnostics" in html
    assert "FAIL 0.125" in html and "pass 0" in html and "Skipped: no answer." in html
    assert diagnostics.gates(result["runs"][3:]) == []
    assert diagnostics.section(result_of({"a": [1.0]}, {})) == []


def evaluation(seed, exact):
    """Return scores of puzzles; the second seed has three times as many hard ones."""
    score = {"exact": exact, "cells": 0.9, "open_cells": 0.8}
    groups = {
        "4 to 6": score | {"pairs": 10, "rounds": 1.5, "difficulty": 5.0},
        "7 to 9": score | {"pairs": 20, "rounds": 3.0, "difficulty": 8.0, "exact": 0.0},
    }
    if seed:
        groups = {"7 to 9": groups["7 to 9"] | {"pairs": 60, "exact": 0.5}}
    found = {"parameters": 1234, "steps": 7, "training_pairs": 99, "split": "by puzzle"}
    found |= {"left_out": {"seen": 3, "unseen": 0}, "by_difficulty": groups}
    return found | {"scores": {"seen": score, "unseen": score | {"pairs": 30}}}


def test_scores_by_number_of_blanks():
    result = result_of({"hrm": [1.0, 2.0], "trm": [3.0], "none": []}, {})
    for run, seed, exact in zip(result["runs"], (0, 1, 0), (0.5, 1.0, 0.25), strict=True):
        run["evaluation"] = evaluation(seed, exact)
    found = scores.evaluations(result)
    table = scores.blanks_table(found)
    assert table.header[1:3] == ("blanks", "puzzles")
    assert table.rows[0] == ["hrm", "4 to 6", "10", "50.0 %", "80.0 %", "1.5"]
    assert table.rows[1] == ["hrm", "7 to 9", "80", "37.5 %", "80.0 %", "3.0"]
    assert [row[0] for row in table.rows] == ["hrm", "hrm", "trm", "trm"]
    table = scores.score_table(found)
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["exact"] == "50.0 %, 100.0 %"
    assert (row["pairs"], row["unseen questions"]) == ("99 (3 too long)", "30")
    text, html = to_markdown(page.summary(result)), page.compose(result)
    assert "| trm | 7 to 9 | 20 | 0.0 %" in text and "% exact" in html
    assert "Claimed" not in text
    for run in result["runs"]:  # nothing solved: draw the accuracy on blanks
        for group in run["evaluation"]["by_difficulty"].values():
            group["exact"] = 0.0
    html = to_html("", scores.section(result))
    assert "% accuracy on blanks" in html and "% exact" not in html


@pytest.mark.parametrize("values", [[100.0, 100.0], [0.0, 0.0], [0.0, 100.0], [97.0, 99.0]])
def test_percentage_axis_is_clamped(values):
    figure = figures.curves({"a": ([6, 12], values)}, ylabel="% exact")
    low, high = figure.axes[0].get_ylim()
    assert -1.0 <= low < min(values) + 1e-9 and max(values) <= high <= 101.0
