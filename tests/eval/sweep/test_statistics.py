"""Statistics of a sweep, and its pages."""

import json
import math
from pathlib import Path

import pytest

from eval.report.document import to_markdown
from eval.sweep import page, results, statistics
from eval.sweep.__main__ import main
from eval.sweep.statistics import compare
from tests.eval.sweep.parts import fake_runs, result_of, write_run


def seeds(*values):
    return dict(enumerate(values))


def test_distinguishable_by_hand():
    # Differences -3, -2, -4: standard error sqrt(1 / 3), 2 degrees of freedom, t = 4.3027.
    apart = compare(seeds(1, 3, 2), seeds(4, 5, 6))
    half = 4.302653 * (1 / 3) ** 0.5
    assert apart["difference"] == -3
    assert (apart["low"], apart["high"]) == pytest.approx((-3 - half, -3 + half), abs=1e-5)
    assert apart["spread"] == 1
    assert apart["in_spreads"] == -3
    assert apart["verdict"] == "helps"
    assert compare(seeds(4, 5, 6), seeds(1, 3, 2))["verdict"] == "hurts"
    # Unpaired: both variances 1, 4 degrees of freedom, t = 2.7764.
    half = 2.776445 * (2 / 3) ** 0.5
    assert apart["unpaired"] == pytest.approx((-3 - half, -3 + half), abs=1e-5)


def test_pairing_removes_the_effect_of_the_seed():
    """Values vary by 4 between seeds but by about 1 within a seed."""
    answer = compare(seeds(1.0, 5.0, 9.0), seeds(2.0, 6.1, 9.9))
    assert answer["verdict"] == "helps"
    assert answer["unpaired"][0] < 0 < answer["unpaired"][1]


def test_not_distinguishable_by_hand():
    close = compare(seeds(1, 2, 3), seeds(3, 2, 4))
    assert close["difference"] == -1
    assert close["low"] < 0 < close["high"]
    assert close["verdict"] == "not distinguishable"


def test_only_shared_seeds_are_compared():
    answer = compare({0: 1.0, 1: 2.0, 2: 50.0}, {0: 2.0, 1: 3.2, 7: 0.0})
    assert answer["difference"] == pytest.approx(-1.1)


def test_too_few_seeds_or_no_spread():
    assert compare({}, seeds(1.0, 2.0))["difference"] is None
    assert compare(seeds(1.0), seeds(2.0, 3.0))["verdict"] == "not known"
    assert compare(seeds(1.0), seeds(2.0, 3.0))["difference"] == -1.0
    assert compare(seeds(1.0, 1.0), seeds(2.0, 2.0))["verdict"] == "not known"  # zero spread


def test_p_values_are_adjusted_for_the_number_of_questions():
    """p = 0.035 is significant alone, but not among nine comparisons of equal entries."""
    finals = {"a": [1, 3, 2], "b": [4, 5, 6]} | {f"c{i}": [1.1, 2, 3] for i in range(9)}
    alone = result_of(finals, {"q": ("a", "b", "?")})["answers"]["q"]
    assert alone["p"] == pytest.approx(0.0351, abs=1e-4)
    assert alone["p_jointly"] == alone["p"]
    assert "✓" in alone["words"]
    others = {f"q{i}": ("a", f"c{i}", "?") for i in range(9)}
    among = result_of(finals, {"q": ("a", "b", "?"), **others})["answers"]["q"]
    assert among["p_jointly"] == pytest.approx(10 * among["p"])
    assert among["verdict"] == "helps"
    assert "✓" not in among["words"]


def test_halted_run_is_excluded_from_means():
    result = result_of({"a": [1, 2, None], "b": [4, 5, 6]}, {"q": ("a", "b", "Is it so?")})
    answer = result["answers"]["q"]
    assert answer["with_mean"] == 1.5
    assert (answer["with_seeds"], answer["with_halted"]) == (2, 1)
    assert "1 run(s) of “a” became NaN or Inf" in answer["words"]
    rows = {row["entry"]: row for row in statistics.summaries(result)}
    assert (rows["a"]["finished"], rows["a"]["halted"], rows["a"]["runs"]) == (2, 1, 3)
    assert rows["b"]["change"] == 3.5
    assert rows["b"]["mean_spread"] == 1


def test_summaries_by_hand():
    result = result_of({"base": [2.0, 3.0], "worse": [4.0, None], "broken": [None]}, {})
    for run, first, norms in zip(
        result["runs"], (4, 5, 4, 9, 9), ([1, 4, 2], [4], [], [9], [9]), strict=True
    ):
        run["valid"]["values"][0] = first
        run["train"] = {"grad_norm": {"steps": [0], "values": norms}}
    base, worse, broken = statistics.summaries(result)
    assert (base["mean"], base["along"], base["change"], base["halted"]) == (2.5, 3.5, 0, 0)
    assert base["mean_spread"] == pytest.approx(math.sqrt(0.5))
    assert (base["grad_norm"], worse["grad_norm"]) == (4.0, None)
    assert (worse["mean"], worse["change"], worse["halted"]) == (4, 1.5, 1)
    assert worse["mean_spread"] is None
    assert (broken["mean"], broken["change"], broken["halted"]) == (None, None, 1)


def test_diagnosis_of_the_hybrid():
    """The widest interval counts: 1.15 between r and m, 0.72 between h and r."""
    finals = {"h": [1, 2, 3], "r": [5, 6.5, 7], "m": [4.5, 5.2, 6.5]}
    assert result_of(finals, {}, ("h", "r", "m"))["diagnosed"]["verdict"] == "wins"
    assert result_of(finals, {}, ("r", "h", "m"))["diagnosed"]["verdict"] == "undecided"
    assert result_of({**finals, "m": [9, 10, 11.5]}, {}, ("m", "h", "r"))["diagnosed"][
        "verdict"
    ] == ("training")
    between = result_of({**finals, "m": [9, 10, 11.5]}, {}, ("r", "h", "m"))
    assert between["diagnosed"]["verdict"] == "capacity"
    assert between["diagnosed"]["words"] in to_markdown(page.summary(between))
    unknown = result_of({**finals, "m": [1]}, {}, ("h", "r", "m"))["diagnosed"]
    assert unknown["verdict"] == "not known"


def test_page_of_an_interrupted_sweep():
    finals = {"a": [1.0, 2.0, 3.0], "b": []}
    result = result_of(finals, {"q": ("a", "b", "Is <it> so?")})
    html = page.compose(result)
    assert "Is &lt;it&gt; so?" in html
    assert "has no finished run" in html
    assert "| Is <it> so? | not known | - | - | - | - | 3, 0 |" in to_markdown(page.summary(result))
    assert "1 not known. 3 of 3 runs finished" in page.lead(result)


def test_json_round_trip(tmp_path):
    result = result_of({"a": [1.0, 2.0], "b": [3.0, 4.0]}, {"q": ("a", "b", "?")})
    assert json.loads(results.as_json(result)) == json.loads(json.dumps(result))


COMMITTED = ["results/groundthink/matrix", "results/groundthink/claim"]
COMMITTED += ["results/hrlm/matrix", "results/hrlm/text"]


@pytest.mark.parametrize("name", COMMITTED)
def test_page_is_rebuilt_from_its_json(name, tmp_path):
    path = Path(f"docs/{name}.json")
    stored = json.loads(path.read_text())
    assert main([f"--report={path}", f"--workdir={tmp_path}"]) == 0
    again = statistics.answered(stored)
    for question, answer in stored["answers"].items():
        assert again["answers"][question]["verdict"] == answer["verdict"]
        for key in ("difference", "low", "high", "p", "p_jointly"):
            if answer[key] is None:
                assert again["answers"][question][key] is None
            else:
                assert again["answers"][question][key] == pytest.approx(answer[key], rel=1e-6)
    html = (tmp_path / "sweep.html").read_text()
    assert html.count("<svg") >= 4
    assert "http" not in html.replace("http://www.w3.org", "")  # self-contained
    text = path.with_suffix(".md")
    if text.exists():
        assert (tmp_path / "sweep.md").read_text() == text.read_text()


def test_measured_bits_per_character(tmp_path):
    (run,) = fake_runs(tmp_path, 1)
    run.config.data.tokenizer = "char"
    write_run(run, values=(3.0, 2.0))
    assert results.measured(run.log(), {}) == ([6, 12], pytest.approx([3.0, 2.0]))


def test_measured_with_a_custom_measure(tmp_path):
    (run,) = fake_runs(tmp_path, 1)
    write_run(run, values=(3.0, 2.0))
    measure = {"name": "bits_per_byte", "unit": "left", "best": 5.0, "scale": 10.0}
    assert results.measured(run.log(), measure) == ([6, 12], [20.0, 30.0])
