"""Ablations: what is run, what is not run again, and the arithmetic of the table."""

import json
import math

import pytest

from eval import ablate
from eval.ablate import main, planned_config, read_ablations, summarise
from eval.log import Log, read_log
from jaxmodels.errors import UserError

EXPERIMENT = """\
from tests.eval.conftest import tiny_config

def get_config():
    return tiny_config()

def get_ablations():
    return {"as it is": {}, "small steps": {"optimizer.learning_rate": 1e-5}}
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(EXPERIMENT)
    return path


def test_runs_compares_and_does_not_run_twice(experiment, texts, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "ablations"
    data = f"--config.data.paths={texts}"
    arguments = [f"--config={experiment}", f"--workdir={workdir}", "--steps=20", data, "--seeds"]
    assert main([*arguments, "0", "1"]) == 0
    result = json.loads((workdir / "ablations.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["as it is", "small steps"]
    assert rows["as it is"]["change"] == 0
    assert rows["small steps"]["change"] > 0.5  # it hardly learns
    for folder, name in (("as_it_is", "as it is"), ("small_steps", "small steps")):
        finals = []
        for seed in (0, 1):
            log = read_log(workdir / folder / f"seed{seed}")
            assert log.final["step"] == 20
            assert log.config["seed"] == seed
            finals.append(log.bits_per_byte("valid")[1][-1])
        assert rows[name]["finals"] == finals
        assert finals[0] != finals[1]
    printed = capsys.readouterr().out
    assert "small steps" in printed
    page = (workdir / "ablations.html").read_text()
    assert page.count("<svg") == 2
    assert "optimizer.learning_rate=1e-05" in page

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("train.api.train_text_corpus", refuse)
    assert main([*arguments, "0", "1"]) == 0
    assert json.loads((workdir / "ablations.json").read_text())["rows"] == result["rows"]
    # Another experiment in the same folder is a mistake, not a result.
    capsys.readouterr()
    assert main([*arguments, "0", "--config.batch_size=4"]) == 2
    assert "another batch_size" in capsys.readouterr().err


def test_stopped_in_the_middle_it_goes_on(experiment, texts, tmp_path):
    workdir = tmp_path / "run"
    config = planned_config(experiment, [f"--config.data.paths={texts}"], {}, 20, 0)
    whole = ablate.run_once(config, workdir / "whole", say=lambda text: None)
    ablate.run_once(config, workdir / "part", say=lambda text: None)
    # As if killed before the last lines: the closing line is gone, the last checkpoint stands.
    lines = (workdir / "part" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "part" / "metrics.jsonl").write_text("".join(lines[:-1]))
    again = ablate.run_once(config, workdir / "part", say=lambda text: None)
    assert again.final == whole.final
    assert again.rows == whole.rows


def test_planned_config(experiment):
    config = planned_config(
        experiment, ["--config.batch_size=4"], {"model_config.width": 8, "seed": 5}, 200, 3
    )
    assert (config.steps, config.seed, config.batch_size, config.model_config.width) == (
        200,
        3,
        4,
        8,
    )
    assert config.eval_every == 20
    assert planned_config(experiment, [], {}, 10, 0).optimizer.warmup_steps == 1
    with pytest.raises(UserError, match="learning_rte"):
        planned_config(experiment, [], {"optimizer.learning_rte": 1}, 10, 0)


def test_ablations_of_a_file(experiment, tmp_path):
    assert list(read_ablations(experiment)) == ["as it is", "small steps"]
    (tmp_path / "none.py").write_text("def get_config(): return {}")
    assert read_ablations(tmp_path / "none.py") == {}


def log_of(tmp_path, bits, final=True):
    rows = [{"step": i, "split": "valid", "bits_per_byte": b} for i, b in enumerate(bits)]
    rows += [{"step": i, "split": "train", "grad_norm": g} for i, g in enumerate((1.0, 4.0, 2.0))]
    return Log(tmp_path, rows=rows, final={"final": True} if final else None)


def test_summary_by_hand(tmp_path):
    rows = summarise(
        {
            "base": [log_of(tmp_path, [4, 2]), log_of(tmp_path, [5, 3])],
            "worse": [log_of(tmp_path, [4, 4]), log_of(tmp_path, [9, 9], final=False)],
            "broken": [log_of(tmp_path, [9], final=False)],
        }
    )
    base, worse, broken = rows
    assert (base["final"], base["along"], base["change"], base["halted"]) == (2.5, 3.5, 0, 0)
    assert base["final_spread"] == pytest.approx(math.sqrt(0.5))
    assert base["grad_norm"] == 4.0
    assert (worse["final"], worse["change"], worse["halted"]) == (4, 1.5, 1)
    assert worse["final_spread"] == 0
    assert (broken["final"], broken["change"], broken["halted"]) == (None, None, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "name", "steps"], "write --set NAME FIELD=VALUE"),
        (["--set", "name"], "write --set NAME FIELD=VALUE"),
        (["--only", "nothing"], "no such ablation; there is: as it is, small steps"),
        (["--set", "As-it-is", "seq_len=8"], "two names give the same folder"),
        (["--set", "x", "sequence=8"], "sequence"),
        (["--steps=0"], "steps"),
    ],
)
def test_mistakes(experiment, tmp_path, capsys, arguments, message):
    assert main([f"--config={experiment}", f"--workdir={tmp_path}/a", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_without_ablations_needs_one(tmp_path, capsys):
    path = tmp_path / "bare.py"
    path.write_text(EXPERIMENT.partition("def get_ablations")[0])
    assert main([f"--config={path}", f"--workdir={tmp_path}/a"]) == 2
    assert "no get_ablations()" in capsys.readouterr().err
