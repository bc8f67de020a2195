"""Configs: files, overrides, JSON, and the one-line errors."""

import json

import pytest

import jaxmodels
from jaxmodels.errors import UserError
from tests.train.toy import toy_config
from train.config import (
    apply_overrides,
    complete_config,
    differences,
    from_json,
    load_config,
    may_change,
    read_config,
    to_json,
    validate_config,
)
from train.config.schema import FIELDS, GROUPS, default_config
from train.devices.fields import check_rows

FILE = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"model": "prernk", "steps": 30, "optimizer": {"learning_rate": 1e-2}})
"""


def test_defaults_complete_a_file(tmp_path):
    (tmp_path / "c.py").write_text(FILE)
    config = load_config(
        tmp_path / "c.py", ["--config.batch_size=64", "--config.data.carry_state", "false"]
    )
    assert (config.steps, config.batch_size, config.optimizer.learning_rate) == (30, 64, 1e-2)
    assert config.data.carry_state is False
    assert config.seq_len == default_config().seq_len


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("--config.steps=7", "steps", 7),
        ("--config.optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("--config.optimizer.weight_decay=1", "optimizer.weight_decay", 1.0),
        ("--config.dtype=bfloat16", "dtype", "bfloat16"),
        ("--config.data.paths=a.txt,b.txt", "data.paths", ("a.txt", "b.txt")),
        ("--config.data.paths=('a.txt',)", "data.paths", ("a.txt",)),
        ("--config.model_config.width=16", "model_config.width", 16),
    ],
)
def test_overrides_are_parsed_as_the_field_type(override, name, value):
    config = toy_config()
    apply_overrides(config, [override])
    for part in name.split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.stpes=7", "did you mean 'steps'"),
        ("--config.optimizer.learning_rat=1", "did you mean 'optimizer.learning_rate'"),
        ("--config.learning_rate=1", "did you mean 'optimizer.learning_rate'"),
        ("--config.model_config.widht=1", "did you mean 'model_config.width'"),
        ("--config.optimzer.eps=1", "unknown group 'optimzer'"),
        ("--config.steps=many", "config.steps: expected an integer, got 'many' (str)"),
        ("--config.steps=1.5", "config.steps: expected an integer, got 1.5 (float)"),
        ("--config.data.carry_state=yes please", "expected a bool (true or false)"),
        ("--config.optimizer.eps=tiny", "config.optimizer.eps: expected a number"),
        ("--config.optimizer=adamw", "is a group; set one of its fields: "),
        ("--config.optimizer.groups={}", "of its fields: --config.optimizer.groups.NAME=VALUE"),
        ("--config.steps", "a value is missing"),
        ("--step=3", "unknown argument '--step=3'"),
    ],
)
def test_invalid_overrides_name_the_fix(override, message):
    with pytest.raises(UserError) as error:
        apply_overrides(toy_config(), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "config.steps: must be at least 1"),
        ({"steps": 2**31}, "config.steps: must be below 2^31, got 2147483648"),
        ({"batch_size": 10**30}, "config.batch_size: must be below 2^31"),
        ({"batch_size": 2**25, "seq_len": 64}, "2,147,483,648 tokens; a batch must have fewer"),
        ({"dtype": "float61"}, "did you mean"),
        ({"parallel": "pmpa"}, "did you mean 'pmap'"),
        ({"optimizer__name": "adanw"}, "did you mean 'adamw'"),
        ({"optimizer__schedule": "cosin"}, "did you mean 'cosine'"),
        ({"optimizer__warmup_steps": 20}, "do not fit in 20 steps"),
        ({"optimizer__b2": 1.0}, "config.optimizer.b2: must be in [0, 1)"),
        ({"optimizer__learning_rate": float("nan")}, "config.optimizer.learning_rate"),
        ({"optimizer__accumulate": 3}, "make it a multiple of 12"),
        ({"seed": 2**32}, "config.seed: must be below 2^32"),
        ({"batch_size": 6}, "6 rows do not divide over 4 devices"),
        ({"data__mode": "track"}, "did you mean 'tracks'"),
    ],
)
def test_values_are_checked(changes, message):
    with pytest.raises(UserError) as error:
        config = toy_config(**changes)
        validate_config(config)
        check_rows(config, device_count=4)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


RWKV = """
def get_config():
    return {"model": "rwkv/4", "model_config": {"vocab_size": 0, "width": 32}}
"""


def test_unlisted_model_field_can_be_overridden(tmp_path):
    (tmp_path / "c.py").write_text(RWKV)
    config = load_config(tmp_path / "c.py", ["--config.model_config.chunk_size=32"])
    assert (config.model_config.chunk_size, config.model_config.width) == (32, 32)
    assert config.model_config.version == 4  # from the preset
    assert "dtype" not in config.model_config  # the experiment's own field
    with pytest.raises(UserError, match=r"did you mean 'model_config.chunk_size'"):
        load_config(tmp_path / "c.py", ["--config.model_config.chunksize=32"])
    with pytest.raises(UserError, match="num_layers: expected an integer"):
        load_config(tmp_path / "c.py", ["--config.model_config.num_layers=2.5"])


def test_changed_model_uses_its_own_defaults(tmp_path):
    (tmp_path / "c.py").write_text(RWKV)
    more = ["--config.model_config.state_size=8", "--config.model=mamba"]
    config = load_config(tmp_path / "c.py", more)
    assert (config.model_config.state_size, config.model_config.width) == (8, 32)
    assert "ranks" not in config.model_config


def test_partial_stored_config_is_the_same_experiment(tmp_path):
    (tmp_path / "c.py").write_text(RWKV)
    config = load_config(tmp_path / "c.py")
    config.model_config.vocab_size = 256
    stored = config.to_dict()
    stored["model_config"] = {"width": 32}  # written by a version without defaults
    assert not differences(from_json(json.dumps(stored)), config)


def test_toy_config_is_valid():
    validate_config(toy_config())
    check_rows(toy_config(), device_count=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "prernk", "step": 3}, "unknown field 'step'; did you mean 'steps'"),
        ({"model": "prernk", "optimizer": {"lr": 3}}, "unknown field 'optimizer.lr'"),
        ({"model": "prernk", "steps": "3"}, "config.steps: expected an integer"),
        ({"model": "prernk", "data": 3}, "data must be a group"),
        ({"steps": 3}, "'model' is missing"),
    ],
)
def test_config_file_is_checked_like_an_override(given, message):
    with pytest.raises(UserError, match="config") as error:
        complete_config(given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; did you mean"),
        ("x = 1", "defines no get_config()"),
        ("def get_config(:", "line 1"),
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError: No module named"),
        ("x = 1\nraise RuntimeError('one\\ntwo')", "line 2: RuntimeError: one two"),
        ("def get_config():\n    return {}['model']", "line 2: KeyError: 'model'"),
        ("import sys\nsys.exit('no')", "line 2: SystemExit: no"),
        (b"# caf\xe9\n", "goood.py: "),
    ],
)
def test_missing_or_broken_file(tmp_path, text, message):
    (tmp_path / "good.py").write_text(FILE)
    path = tmp_path / "goood.py"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_json_round_trip_keeps_values_and_types():
    config = toy_config(data__paths=("a", "b"), optimizer__weight_decay=1.0)
    again = from_json(to_json(config))
    assert differences(config, again) == {}
    assert again.data.paths == ("a", "b")
    assert type(again.optimizer.weight_decay) is float
    again.optimizer.b1 = 0.5
    assert differences(config, again).keys() == {"optimizer.b1"}
    with pytest.raises(UserError, match=r"config.json: not a run's config"):
        from_json("{")


@pytest.mark.parametrize("stored", [b"{", b"[]", b'{"model": "caf\xe9"}', None])
def test_invalid_stored_config(tmp_path, stored):
    path = tmp_path / "config.json"
    if stored is not None:
        path.write_bytes(stored)
    with pytest.raises(UserError, match=r"config\.json: not a run's config") as error:
        read_config(path)
    assert "\n" not in str(error.value)


def test_every_field_is_documented_once():
    assert len(FIELDS) == sum(len(group.fields) for group in GROUPS)
    for name, field in FIELDS.items():
        assert field.doc[0].isalnum() and field.doc.endswith("."), name
        assert "\n" not in field.doc
        *group, last = name.split(".")
        config = default_config()
        assert last in (config[group[0]] if group else config)


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("steps", True),
        ("mesh.fsdp", True),
        ("optimizer.learning_rate", True),
        ("optimizer.groups.mamba", True),
        ("optimizer.freeze.mamba", False),
        ("control.patience", True),
        ("control.enabled", False),
        ("data.mode", False),
        ("model_config.width", False),
        ("seed", False),
    ],
)
def test_may_change_on_resume(name, free):
    assert may_change(name) is free


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({1: True}, "unknown field '1'"),
        ({"data": {"paths": (2,)}}, "config.data.paths: must be a list of texts, got 2 in it"),
        ({"data": {"corpora": (8,)}}, "config.data.corpora: must be a list of texts, got 8 in it"),
        ({"optimizer": {"groups": {1: 2.0}}}, "names in it are text without a dot, got 1"),
        ({"optimizer": {"groups": {"a.b": 2.0}}}, "names in it are text without a dot, got 'a.b'"),
        ({"optimizer": {"groups": {"a": b"x"}}}, "expected a number, a text, true, false, None"),
        ({"model_config": {"version": {"a": None}}}, "version must be an integer, got {'a': None}"),
        ({"model_config": {"head_size": "8"}}, "head_size must be an integer or None, got '8'"),
    ],
)
def test_what_a_config_may_hold(fields, message):
    """Found by tests/fuzz: names that are no texts, values that JSON cannot hold, other types."""
    with pytest.raises(UserError) as error:
        config = complete_config({"model": "rwkv", "model_config": {"width": 8}} | fields)
        validate_config(config)
        jaxmodels.make_config("rwkv", **config.model_config.to_dict() | {"vocab_size": 9})
    assert message in str(error.value)


def test_overrides_may_change_the_type_of_a_users_own_field():
    config = complete_config({"model": "rwkv/4"})
    apply_overrides(config, ["--config.optimizer.groups.a=1", "--config.optimizer.groups.a=0.5"])
    assert config.optimizer.groups.a == 0.5


def test_json_that_is_nested_too_deeply_is_no_config():
    with pytest.raises(UserError, match=r"not a run's config .nested too deeply"):
        from_json("[" * 200_000, "config.json")
