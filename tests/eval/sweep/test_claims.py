"""Claims compared with the evaluated answers of runs."""

import json

import pytest

import jaxmodels
from eval.log import read_log
from eval.sweep import memory
from eval.sweep.__main__ import main
from eval.sweep.claims import Claim
from jaxmodels import count_parameters

CLAIMS = """\
from configs.hrlm import claims
from tests.train.tasks.test_answers import text_config

def get_sweep():
    config = text_config(examples=200)
    config.seq_len = 64
    return {
        "config": config,
        "seeds": (0, 1, 2),
        "entries": {"translation": {"changes": {"steps": 4}}, "level 1": {"changes": {"steps": 2}}},
        "questions": {},
        "answers": True,
        "claims": claims.CLAIMS,
        "claims_note": claims.NOTE,
        "memory": {"hrlm/base": (16, 256, 8)},
    }
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a sweep of claims, of which one run was made, and the arguments."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "claims.py").write_text(CLAIMS)
    arguments = [f"--config={folder / 'claims.py'}", f"--workdir={folder / 'runs'}"]
    arguments += ["--seeds", "1", "--only", "translation", "memory"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS", raising=False)
        sizes = {"arguments": 1_500_000_000, "temporaries": 400_000_000}
        patch.setattr(
            memory, "step_bytes", lambda *of: sizes if of[3] else sizes | {"temporaries": 2}
        )
        assert main(arguments) == 0
    return folder, arguments


def result_of(folder):
    return json.loads((folder / "runs" / "sweep.json").read_text())


def test_claims_are_compared_with_the_runs(written):
    folder, _ = written
    result = result_of(folder)
    found = result["runs"][0]["evaluation"]
    assert [run["state"] for run in result["runs"]] == ["finished", "waiting"]
    answers = json.loads((folder / "runs/translation/seed1/answers.json").read_text())
    assert found["scores"] == answers["splits"] and found["steps"] == 4
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
    text = (folder / "runs" / "sweep.md").read_text()
    assert "| L-71 | BLEU, 0 to 1 | translation | > 0.7 |" in text
    assert "L-75" in (folder / "runs" / "sweep.html").read_text()


def test_measurements_are_not_repeated(written, capsys, monkeypatch):
    folder, arguments = written
    before = result_of(folder)["runs"]
    monkeypatch.setattr(memory, "step_bytes", None)  # nothing is compiled
    monkeypatch.setattr("eval.sweep.runner.start_worker", None)
    assert main(arguments) == 0
    assert "1 of 1 runs were finished before" in capsys.readouterr().out
    assert main([*arguments, "--report"]) == 0
    assert result_of(folder)["runs"] == before
    # An evaluation on fewer questions does not count: the run is not finished.
    file = folder / "runs/translation/seed1/answers.json"
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole) | {"max_pairs": 5}))
    assert main([*arguments, "--report"]) == 0
    assert result_of(folder)["runs"][0]["state"] == "waiting"
    assert "0 of 2 runs finished" in (folder / "runs/sweep.md").read_text()
    file.write_text(whole)


@pytest.mark.slow  # as the others that need the runs
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            ["--only", "level 2"],
            "--only 'level 2': no such entry; choose from: translation, level 1, memory",
        ),
        (["--config.steps=3"], "holds a run with another steps; name another --workdir"),
        (["--config.stepz=3"], "did you mean"),
    ],
)
def test_one_line_errors(written, more, says, capsys):
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
def test_verdict(below, values, verdict):
    claim = Claim("L-0", "a number", "run", "value", 90, below)
    assert claim.verdict(values) == verdict


@pytest.mark.slow
def test_step_bytes_are_plausible():
    sizes = {"width": 64, "head_size": 32, "high_layers": 1, "low_layers": 1}
    found = memory.step_bytes("hrlm/base", 4, 64, False, **sizes)
    parameters = 4 * count_parameters(jaxmodels.create("hrlm/base", **sizes, seq_len=64))
    assert 3 * parameters < found["arguments"] < 4 * parameters  # two Adam moments and the carry
    assert found["temporaries"] > parameters  # the gradient at least
