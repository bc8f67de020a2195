"""Claim beside measurement: what is run, what is not run again, and who is said to have reached."""

import json
from pathlib import Path

import pytest

import jaxmodels
from eval.compare import claims, memory, runs, table
from eval.compare.__main__ import main
from eval.log import read_log
from eval.report import figures
from jaxmodels import count_parameters

CONFIG = """\
from tests.train.tasks.test_answers import text_config

def get_config():
    config = text_config(examples=200)
    config.seq_len = 64
    return config
"""
CLAIMS = """\
def get_comparison():
    runs = {{"translation": ({path!r}, {{"steps": 4}}), "level 1": ({path!r}, {{"steps": 2}})}}
    return {{"runs": runs, "memory": {{"hrlm/base": (16, 256, 8)}}}}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of claims, and what the command made of it for one of its runs."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "config.py").write_text(CONFIG)
    (folder / "claims.py").write_text(CLAIMS.format(path=str(folder / "config.py")))
    arguments = [f"--config={folder / 'claims.py'}", f"--workdir={folder / 'runs'}"]
    arguments += ["--seeds", "1", "--only", "translation", "memory"]
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"arguments": 1_500_000_000, "temporaries": 400_000_000}
        patch.setattr(
            memory, "step_bytes", lambda *of: sizes if of[3] else sizes | {"temporaries": 2}
        )
        assert main(arguments) == 0
    return folder, arguments


def result_of(folder):
    return json.loads((folder / "runs" / "compare.json").read_text())


def test_each_claim_has_its_number(written):
    folder, _ = written
    result = result_of(folder)
    (outcome,) = result["runs"]
    answers = json.loads((folder / "runs/translation/seed1/answers.json").read_text())
    assert outcome["scores"] == answers["splits"] and outcome["steps"] == 4
    assert read_log(folder / "runs/translation/seed1").config["seed"] == 1
    rows = {(row["row"], row["claim"], row["run"]): row for row in result["claims"]}
    exact = rows["L-70", "exact on simple translation, %", "translation"]
    assert exact["values"] == {"1": 100 * answers["splits"]["unseen"]["exact"]}
    assert exact["verdict"] == "not reached, short by 90.0 at most"  # after four steps
    never = rows["L-72", "steps until 90 % of validation are exact", "translation"]
    assert (never["shown"], never["verdict"]) == ("never", "not reached")
    assert rows["L-72", "training steps", "translation"]["verdict"] == "reached"
    assert rows["L-70", "exact on factual, %", "level 1"]["shown"] == "not measured"
    plain = rows["L-73", "GB of a training step of hrlm/base, 16 x 256", "compiled"]
    assert (plain["shown"], plain["verdict"]) == ("1.50", "reached")
    assert (
        "| L-71 | BLEU, 0 to 1 | translation | > 0.7 |"
        in (folder / "runs" / "compare.md").read_text()
    )
    assert "L-75" in (folder / "runs" / "compare.html").read_text()


def test_what_is_measured_is_kept(written, capsys, monkeypatch):
    folder, arguments = written
    before = result_of(folder)["runs"]
    monkeypatch.setattr(memory, "step_bytes", None)  # nor is anything compiled
    assert main(arguments) == 0
    assert "translation, seed 1: measured before" in capsys.readouterr().out
    assert main([*arguments, "--report"]) == 0
    assert result_of(folder)["runs"] == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            ["--only", "level 2"],
            "--only 'level 2': no such run; there is: translation, level 1, memory",
        ),
        (["--seeds", "5", "--report"], "no run has been measured yet; leave out --report"),
        (["--config.steps=3"], "holds a run with another steps; name another --workdir"),
        (["--config.stepz=3"], "did you mean"),
    ],
)
def test_mistakes_in_one_line(written, more, says, capsys):
    assert main([*written[1], *more]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("below", "values", "verdict"),
    [
        (False, [91.0, 95.0], "reached"),
        (False, [90.0, 95.0], "by 1 of 2 seeds, short by 0.0 at most"),
        (False, [80.5, 70.0], "not reached, short by 20.0 at most"),
        (False, [95.0, None], "by 1 of 2 seeds, short by 0.0 at most"),
        (True, [89.0, 93.0], "by 1 of 2 seeds, short by 3.0 at most"),
        (True, [None], "not reached"),
        (True, [], ""),
    ],
)
def test_who_reached_it(below, values, verdict):
    claim = claims.Claim("L-0", "a number", "run", lambda outcome: outcome, 90, below)
    assert claims._verdict(claim, values) == verdict


def outcome(name, seed, exact):
    """Of puzzles, as `runs.outcome` gives it; a second seed has three times as many hard ones."""
    score = {"exact": exact, "cells": 0.9, "open_cells": 0.8}
    groups = {
        "4 to 6": score | {"pairs": 10, "rounds": 1.5, "difficulty": 5.0},
        "7 to 9": score | {"pairs": 20, "rounds": 3.0, "difficulty": 8.0, "exact": 0.0},
    }
    if seed:
        groups = {"7 to 9": groups["7 to 9"] | {"pairs": 60, "exact": 0.5}}
    found = {"name": name, "seed": seed, "parameters": 1234, "steps": 7, "seconds": 1.0}
    found |= {"training_pairs": 99, "split": "by puzzle", "device": "CPU", "versions": {"jax": "1"}}
    found |= {"left_out": {"seen": 3, "unseen": 0}, "by_difficulty": groups}
    return found | {"scores": {"seen": score, "unseen": score | {"pairs": 30}}}


def test_puzzles_are_told_by_their_blanks(tmp_path):
    runs_ = [outcome("hrm", 0, 0.5), outcome("hrm", 1, 1.0), outcome("trm", 0, 0.25)]
    result = {"command": "x", "seeds": [0, 1], "names": ["hrm", "trm", "none"], "runs": runs_}
    result |= {"memory": {}, "claims": []}
    header, rows = table.by_blanks(result)
    assert header[1:3] == ("blanks", "puzzles")
    assert rows[0] == ["hrm", "4 to 6", "10", "50.0 %", "80.0 %", "1.5"]
    assert rows[1] == ["hrm", "7 to 9", "80", "37.5 %", "80.0 %", "3.0"]
    assert [row[0] for row in rows] == ["hrm", "hrm", "trm", "trm"]
    header, rows = table.scores(result)
    row = dict(zip(header, rows[0], strict=True))
    assert row["exact"] == "50.0 %, 100.0 %"
    assert (row["pairs"], row["asked, unseen"]) == ("99 (3 too long)", "30")
    text, page = (Path(path).read_text() for path in table.write(result, tmp_path))
    assert "| trm | 7 to 9 | 20 | 0.0 %" in text and "% exact" in page
    assert "Claimed" not in text
    for run in runs_:  # none is solved: what there is to see are the blanks
        for group in run["by_difficulty"].values():
            group["exact"] = 0.0
    page = Path(table.write(result, tmp_path)[1]).read_text()
    assert "% of the blanks right" in page and "% exact" not in page


def test_memory_of_a_step_is_the_compilers():
    sizes = {"width": 64, "head_size": 32, "high_layers": 1, "low_layers": 1}
    found = memory.step_bytes("hrlm/base", 4, 64, False, **sizes)
    parameters = 4 * count_parameters(jaxmodels.create("hrlm/base", **sizes, seq_len=64))
    assert 3 * parameters < found["arguments"] < 4 * parameters  # with two moments, and thoughts
    assert found["temporaries"] > parameters  # the gradient at least


@pytest.mark.parametrize("name", ["claims", "compare_enes", "compare_sudoku9"])
def test_the_comparisons_that_there_are_can_be_planned(name):
    planned, presets = runs.read_runs(f"configs/hrlm/{name}.py", [0, 1], [], [])
    assert len(planned) == 2 * len({run.name for run in planned}) >= 8
    assert {run.config.seed for run in planned} == {0, 1}
    assert bool(presets) == (name == "claims")


def test_a_file_without_runs_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("")
    with pytest.raises(runs.UserError, match=r"defines no get_comparison"):
        runs.read_runs(str(tmp_path / "a.py"), [0], [], [])
    (tmp_path / "a.py").write_text("def get_comparison():\n    return {}\n")
    with pytest.raises(runs.UserError, match=r"returns no 'runs'"):
        runs.read_runs(str(tmp_path / "a.py"), [0], [], [])
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(runs.UserError, match=r"not a Python file"):
        runs.read_runs(str(tmp_path / "a.md"), [0], [], [])


@pytest.mark.parametrize("values", [[100.0, 100.0], [0.0, 0.0], [0.0, 100.0], [97.0, 99.0]])
def test_shares_are_drawn_between_0_and_100(values):
    figure = figures.curves({"a": ([6, 12], values)}, ylabel="% exact")
    low, high = figure.axes[0].get_ylim()
    assert -1.0 <= low < min(values) + 1e-9 and max(values) <= high <= 101.0
