"""The plan of a sweep: equal parameters, equal tokens, variants, and errors in a file."""

import pytest

from eval.sweep.__main__ import main
from eval.sweep.match import matched_value
from eval.sweep.plan import entry_config, make_plan
from eval.sweep.spec import read_sweep
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
    sweep = make_plan(given, overrides, seeds=(3, 3, 4))
    assert sweep.seeds == (3, 4)
    base, mlp, width, other, free = sweep.entries.values()
    # One layer holds 3 x 32 of SwiGLU for each hidden channel: no value in between.
    assert abs(mlp.parameters - base.parameters) <= 48
    assert mlp.config.model_config.mlp_size == mlp.changes["mlp_size"]
    assert width.config.model_config.width % 8 == 0
    assert abs(sweep.difference(width)) < 0.05
    assert other.config.model == "mamba"
    assert "state_size" in other.config.model_config  # the fields of the other model
    assert sweep.difference(free) > 0.05  # no match requested
    assert base.tokens == 4 * 2 * 8
    assert (base.of_seed(4).seed, base.config.seed) == (4, 0)


def test_matched_value_is_the_nearest(monkeypatch):
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


def test_unreachable_parameter_match_is_rejected(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    entry = {"changes": {"num_layers": 1}, "match": "width", "multiple": 24}
    with pytest.raises(UserError, match=r"no width brings it within 5%.*match another field"):
        make_plan(given_of({"base": {}, "six": entry}), overrides)


def test_questions_between_unequal_tokens_are_rejected(texts):
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
        ('del m["seeds"]', "get_sweep(): the key 'seeds' is missing"),
        (
            'm["sedes"] = (0,)',
            "unknown key 'sedes'; choose from: config, seeds",
        ),
        (
            'm["entries"]["slow"]["grup"] = 1',
            "unknown key 'grup'; choose from: group",
        ),
        (
            'm["entries"]["slow"]["group"] = "x"',
            "unknown group 'x'; choose from: tier1",
        ),
        ('m["questions"]["rate"] = ("base", "x", "?")', "'rate' refers to unknown entry 'x'"),
        ("m = None", "get_sweep(): expected a dict, got None"),
        ('m["seeds"] = 3', "'seeds' must be a list, got 3"),
        ('m["seeds"] = ("a",)', "'seeds' must be integers from 0"),
        ('m["steps"] = "ten"', "'steps' must be an integer, got 'ten'"),
        ('m["config"] = None', "'config' must be a ConfigDict, got None"),
        ('m["entries"]["slow"] = None', "entry 'slow': expected a dict, got None"),
        ('m["entries"]["slow"]["group"] = ["x"]', "'group' must be a text, got ['x']"),
        ('m["entries"]["slow"]["changes"] = "model"', "'changes' must be a dict, got 'model'"),
        ('m["questions"]["rate"] = 1j', "question 'rate' must be (entry, other entry, question)"),
        ('m["measure"] = {"name": "loss"}', "the key 'unit' is missing"),
        ('m["memory"] = {"rwkv": (1, 2)}', "memory of 'rwkv' must be (rows, tokens per row, GB)"),
        ('m["diagnosis"] = ("y",)', "'diagnosis' refers to unknown entry 'y'"),
        ('m["entries"]["slow"]["changes"] = {"witdh": 3}', "unknown field; did you mean"),
        ('m["entries"]["slow"]["changes"] = {"seq_len": 0}', "entry 'slow': config.seq_len"),
    ],
)
def test_errors_in_the_file(experiment, texts, tmp_path, capsys, change, message):
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
        (["--only", "fast"], "--only 'fast': no such entry; choose from: base, slow"),
        (["--jobs=0"], "--jobs=0: give 1 or more"),
        (["--config=configs/hrlm/claims.py", "--preset=full"], "claims.py has no presets"),
        (["--config=nothing.py"], "no such file"),
        (["--config=configs/mamba.py"], "does not define get_sweep(); see configs/groundthink"),
        (["--config=README.md"], "not a Python file"),
        (["--report=README.md"], "--report=README.md: not a valid sweep.json"),
        (["--set", "name", "steps"], "expected --set NAME FIELD=VALUE"),
        (["--set", "name"], "expected --set NAME FIELD=VALUE"),
        (["--set", "Base-", "seq_len=8"], "two names give the same folder"),
        (["--set", "x", "sequence=8"], "sequence"),
        (["--steps=0"], "steps"),
    ],
)
def test_errors_on_the_command_line(experiment, texts, tmp_path, capsys, arguments, message):
    usual = [f"--config={experiment}", f"--workdir={tmp_path}/m", "--data", str(texts)]
    assert main([*usual, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_config_of_a_variant(experiment):
    given = read_sweep(experiment)
    changes = {"width": 8, "optimizer.learning_rate": 1.0, "seq_len": 4}
    config = entry_config(given, {}, changes, ["--config.batch_size=4", "--config.seq_len=8"], 200)
    assert (config.steps, config.batch_size, config.model_config.width) == (200, 4, 8)
    assert (config.optimizer.learning_rate, config.seq_len) == (
        1.0,
        8,
    )  # overrides come last
    assert (config.eval_every, config.checkpoint_every, config.keep_best) == (20, 100, 0)
    assert entry_config(given, {}, {}, steps=10).optimizer.warmup_steps == 1
    asked = entry_config(given | {"answers": True}, {}, {}, steps=10)
    assert asked.keep_best == given["config"].keep_best > 0  # answers come from the best checkpoint
    with pytest.raises(UserError, match="learning_rte"):
        entry_config(given, {}, {"optimizer.learning_rte": 1})


def test_variants_of_a_training_config(experiment, texts, tmp_path):
    path = tmp_path / "bare.py"
    head, _, _ = experiment.read_text().partition("def get_sweep")
    path.write_text(head + "def get_config():\n    return tiny_config()\n")
    variants = [("flat", "seq_len=8"), ("narrow", "width=8", "seed=3")]
    sweep = make_plan(read_sweep(path, variants=variants), [f"--config.data.paths={texts}"])
    assert list(sweep.entries) == ["as it is", "flat", "narrow"]
    assert sweep.entries["narrow"].config.model_config.width == 8
    # Entries of other tokens are not compared.
    assert sweep.questions == {
        "narrow": ("narrow", "as it is", "Is “narrow” better than “as it is”?")
    }
    more = read_sweep(experiment, variants=[("flat", "seq_len=8")])
    assert list(more["entries"]) == ["base", "slow", "flat"]


@pytest.mark.parametrize(
    ("path", "entries", "presets"),
    [
        ("configs/prernk_ablations.py", 8, [""]),
        ("configs/groundthink/matrix.py", 23, ["", "full", "claim", "smoke"]),
        ("configs/rnk/matrix.py", 19, ["", "smoke"]),
        ("configs/hrlm/sudoku_matrix.py", 11, ["", "smoke"]),
        ("configs/hrlm/text_matrix.py", 6, ["", "smoke"]),
        ("configs/hrlm/claims.py", 5, [""]),
        ("configs/hrlm/compare_enes.py", 4, [""]),
        ("configs/hrlm/compare_sudoku9.py", 4, [""]),
    ],
)
def test_sweep_files_can_be_planned(path, entries, presets):
    for preset in presets:
        given = read_sweep(path, preset)
        assert len(given["entries"]) == entries
        for listed in given["entries"].values():
            entry_config(given, listed, listed.get("changes", {}))
    assert bool(given.get("claims")) == bool(given.get("memory")) == ("claims" in path)


def test_plan_flag_does_not_train(experiment, texts, tmp_path, capsys):
    workdir = tmp_path / "m"
    arguments = [f"--config={experiment}", f"--workdir={workdir}", "--data", str(texts), "--plan"]
    assert main(arguments) == 0
    assert "8,448" in capsys.readouterr().out
    assert not workdir.exists()
