"""The plan of a matrix: equal parameters, equal tokens, and what is wrong with a file."""

import pytest

from eval.sweep.__main__ import main
from eval.sweep.match import matched_value
from eval.sweep.plan import make_plan
from jaxmodels.errors import UserError
from tests.eval.sweep.parts import given_of


def test_parameters_are_matched(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    changes = {"num_layers": 1}
    given = given_of(
        {
            "base": {},
            "mlp": {"changes": changes, "match": "mlp_size"},
            "width": {"changes": changes, "match": "width", "multiple": 8},
            "other": {"changes": {"model": "mamba", "head_size": 4}, "match": "width"}
            | {"multiple": 2},
            "free": {"changes": {"num_layers": 4}},
        }
    )
    matrix = make_plan(given, overrides, seeds=(3, 3, 4))
    assert matrix.seeds == (3, 4)
    base, mlp, width, other, free = matrix.entries.values()
    # One layer holds 3 x 32 of SwiGLU for each hidden channel: no value in between.
    assert abs(mlp.parameters - base.parameters) <= 48
    assert mlp.config.model_config.mlp_size == mlp.changes["mlp_size"]
    assert width.config.model_config.width % 8 == 0
    assert abs(matrix.difference(width)) < 0.05
    assert other.config.model == "mamba"
    assert "state_size" in other.config.model_config  # the fields of the other model
    assert matrix.difference(free) > 0.05  # not asked to match, so not refused
    assert base.tokens == 4 * 2 * 8
    assert (base.of_seed(4).seed, base.config.seed) == (4, 0)


def test_the_nearest_value_is_found(monkeypatch):
    from eval.sweep import match
    from train.config import complete_config

    def config_with(changes):
        fields = {"x": 40.0, "n": 7} | changes
        return complete_config({"model": "tests.eval:toy", "model_config": fields})

    monkeypatch.setattr(match, "count", lambda config: round(config.model_config.x**2) + 100)
    assert matched_value(config_with, "x", 1700) == 40.0
    assert matched_value(config_with, "x", 500) == 20.0
    assert matched_value(config_with, "x", 10_100, multiple=1.0) == 100.0
    assert matched_value(config_with, "x", 10, multiple=1.0) == 1.0
    monkeypatch.setattr(match, "count", lambda config: config.model_config.n * 10)
    assert matched_value(config_with, "n", 204) == 20
    assert matched_value(config_with, "n", 206) == 21
    with pytest.raises(UserError, match="do not grow"):
        matched_value(config_with, "x", 100)
    with pytest.raises(UserError, match="must be a field with a positive number"):
        matched_value(config_with, "nothing", 100)


def test_an_equal_size_out_of_reach_is_refused(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    entry = {"changes": {"num_layers": 1}, "match": "width", "multiple": 24}
    with pytest.raises(UserError, match=r"no width brings it within 5%.*match another field"):
        make_plan(given_of({"base": {}, "six": entry}), overrides)


def test_unequal_tokens_are_not_compared(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    entries = {"base": {}, "long": {"changes": {"steps": 8}}}
    make_plan(given_of(entries), overrides)
    with pytest.raises(UserError, match="'base' reads 64 tokens and 'long' 128"):
        make_plan(given_of(entries, {"q": ("base", "long", "?")}), overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('raise UserError("--preset cpu: there is a, b")', "--preset cpu: there is a, b"),
        ('m["entries"] = {}', "no entries"),
        ('del m["seeds"]', "get_matrix() returns no 'seeds'"),
        ('m["entries"]["slow"]["grup"] = 1', "entry 'slow' has 'grup'; known: group"),
        ('m["entries"]["slow"]["group"] = "x"', "entry 'slow' needs a group of tier1"),
        ('m["questions"]["rate"] = ("base", "x", "?")', "'rate' is about 'x', which is no entry"),
        ('m["diagnosis"] = ("y",)', "'diagnosis' is about 'y'"),
        ('m["entries"]["slow"]["changes"] = {"witdh": 3}', "unknown field; did you mean"),
        ('m["entries"]["slow"]["changes"] = {"seq_len": 0}', "entry 'slow': config.seq_len"),
    ],
)
def test_mistakes_in_the_file(experiment, texts, tmp_path, capsys, change, message):
    path = tmp_path / "wrong.py"
    text = experiment.read_text().replace("return {", "m = {")
    head = "from jaxmodels.errors import UserError\n"
    path.write_text(f"{head}{text}    {change}\n    return m\n")
    assert main([f"--config={path}", f"--workdir={tmp_path}/m", "--data", str(texts)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "fast"], "--only 'fast': no such entry; there is: base, slow"),
        (["--jobs=0"], "--jobs=0: give 1 or more"),
        (["--config=nothing.py"], "no such file"),
        (["--config=configs/mamba.py"], "it defines no get_matrix(preset)"),
    ],
)
def test_mistakes_on_the_command_line(experiment, texts, tmp_path, capsys, arguments, message):
    usual = [f"--config={experiment}", f"--workdir={tmp_path}/m", "--data", str(texts)]
    assert main([*usual, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_plan_only_trains_nothing(experiment, texts, tmp_path, capsys):
    workdir = tmp_path / "m"
    arguments = [f"--config={experiment}", f"--workdir={workdir}", "--data", str(texts), "--plan"]
    assert main(arguments) == 0
    assert "8,448" in capsys.readouterr().out
    assert not workdir.exists()
