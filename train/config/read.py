"""Reading and writing of experiment configs: Python files, command-line overrides, JSON.

A config file defines `get_config()`, which returns a `ConfigDict`. Fields that it omits take their
defaults; a run's `config.json` lists all fields. Errors name the field in one line (`UserError`).
"""

import ast
import contextlib
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from jaxmodels.python_file import returned_by
from train.config.schema import (
    OPEN_GROUPS,
    default_config,
    flat_fields,
    model_defaults,
    validate_config,
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Read `get_config()` from a Python file and apply `--config.a.b=value` overrides.

    Raises:
      UserError: missing file, no `get_config`, unknown key, wrong type, or an invalid value.
    """
    config = returned_by(path, "get_config", "--config", "configs/prernk.py")
    config = complete_config(config, source=f"--config={path}: get_config()")
    apply_overrides(config, overrides)
    validate_config(config)
    return config


def complete_config(
    config: ConfigDict | dict[str, Any], source: str = "config", *, stored: bool = False
) -> ConfigDict:
    """Fill in all defaults, including those of the model's own config.

    Args:
      config: the fields to set.
      source: file named in error messages.
      stored: True for a config that a run has written: a missing vocabulary size is then the
        model's default; elsewhere it is 0, resolved to the tokenizer's size.

    Raises:
      UserError: no config, an unknown field, model or preset, a field of the wrong type, or no
        model where none is tuned.
    """
    full = default_config()
    fields = _plain(config)
    if not isinstance(fields, dict):
        raise UserError(f"{source}: expected a ConfigDict, got {config!r}")
    _merge(full, fields, prefix="", source=source)
    if not full.model and not full.tune.kind:
        raise UserError(f"{source}: the field 'model' is missing, e.g. model='prernk'")
    for name, value in model_defaults(full.model, stored=stored).items():
        if name not in full.model_config:
            full.model_config[name] = value
    return full


def _change_model(config: ConfigDict, model: str) -> None:
    """Set another model; keep the fields that differ from the old model's defaults."""
    old = model_defaults(config.model)
    stated = {
        name: value
        for name, value in config.model_config.to_dict().items()
        if name not in old or value != old[name]
    }
    config.model = model
    config.model_config = ConfigDict(model_defaults(model) | stated)


def _plain(value: Any) -> Any:
    """Return a value with dicts for the ConfigDicts in it."""
    if isinstance(value, ConfigDict):
        return value.to_dict()
    return {key: _plain(x) for key, x in value.items()} if isinstance(value, dict) else value


def _merge(into: ConfigDict, fields: dict[str, Any], prefix: str, source: str) -> None:
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if name in OPEN_GROUPS and isinstance(value, dict):
            _check_storable(name, value)
            into[key] = ConfigDict(dict(value))
            continue
        if not isinstance(key, str) or key not in into:
            raise UserError(f"{source}: unknown field {name!r}{_nearest(name, into, prefix)}")
        current = into[key]
        if isinstance(current, ConfigDict):
            if not isinstance(value, dict):
                raise UserError(f"{source}: {name} must be a group of fields, got {value!r}")
            _merge(current, value, name + ".", source)
        else:
            into[key] = _checked(name, value, current)


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Apply `--config.a.b=value` (or `--config.a.b value`) in place, parsed as the field's type.

    `--config.model` is applied first, with the defaults of that model.

    Raises:
      UserError: not an override, an unknown key (with the nearest valid name), or a wrong type.
    """
    for key, text in sorted(_pairs(overrides), key=lambda pair: pair[0] != "model"):
        *groups, last = key.split(".")
        node = config
        for depth, group in enumerate(groups):
            if group not in node or not isinstance(node[group], ConfigDict):
                name = ".".join(groups[: depth + 1])
                raise UserError(f"--config.{key}: unknown group {name!r}{_nearest(key, config)}")
            node = node[group]
        if key.rpartition(".")[0] in OPEN_GROUPS and groups != ["model_config"] and last:
            value = _literal(text)
            _check_storable(key, value)
            with node.ignore_type():  # 0, and then 0.5
                node[last] = value
            continue
        if last not in node:
            raise UserError(f"--config.{key}: unknown field{_nearest(key, config)}")
        if isinstance(node[last], ConfigDict):
            fields = ", ".join(node[last]) or f"--config.{key}.NAME=VALUE"
            raise UserError(f"--config.{key} is a group; set one of its fields: {fields}")
        value = _parse(key, text, node[last])
        if key == "model":
            _change_model(config, value)
        else:
            node[last] = value


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Split each override into (dotted field, text)."""
    pairs, rest = [], list(overrides)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--config."):
            raise UserError(
                f"unknown argument {argument!r}; config fields are set by --config.field=value"
            )
        key, equals, text = argument.removeprefix("--config.").partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--config.{key}: a value is missing; write --config.{key}=value")
            text = rest.pop(0)
        pairs.append((key, text))
    return pairs


def _nearest(name: str, config: ConfigDict, prefix: str = "") -> str:
    names = list(flat_fields(config, prefix))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not near:  # right field, wrong group
        last = name.rsplit(".", 1)[-1]
        tails = difflib.get_close_matches(last, [n.rsplit(".", 1)[-1] for n in names], n=1)
        near = [n for n in names if tails and n.rsplit(".", 1)[-1] == tails[0]]
    return f"; did you mean {near[0]!r}?" if near else choose_from(config)


def _parse(key: str, text: str, current: Any) -> Any:
    """Parse `text` as a value of the type of `current`."""
    value: Any = text
    if isinstance(current, bool):
        value = {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
    elif isinstance(current, int | float):
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                value = kind(text)
    elif isinstance(current, tuple | list):
        value = _literal(text)
        if isinstance(value, str):
            value = tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
        elif not isinstance(value, tuple | list):
            value = (value,)
    elif current is None:
        value = _literal(text)
    return _checked(key, value, current)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _checked(name: str, value: Any, current: Any) -> Any:
    """Return `value` if its type matches that of `current`, ints as floats; else UserError."""
    _check_storable(name, value)
    if current is None or (
        value is None and not isinstance(current, bool | int | float | str | tuple)
    ):
        return value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(current, tuple | list) and isinstance(value, tuple | list):
        kinds = {type(item) for item in current}
        value = tuple(float(v) if kinds == {float} and type(v) is int else v for v in value)
        if len(kinds) == 1 and (wrong := [v for v in value if not isinstance(v, *kinds)]):
            raise _wrong_type(name, next(iter(kinds)), wrong[0])
        return value
    if type(value) is not type(current):
        raise _wrong_type(name, type(current), value)
    return value


def _check_storable(name: str, value: Any) -> None:
    """Raise UserError unless a run's config.json can hold a value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or not key or "." in key:
                raise UserError(f"config.{name}: names in it are text without a dot, got {key!r}")
            _check_storable(f"{name}.{key}", inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            _check_storable(name, inner)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(
            f"config.{name}: expected a number, a text, true, false, None or a list, got "
            f"{value!r} ({type(value).__name__})"
        )


def _wrong_type(name: str, expected: type, got: Any) -> UserError:
    words = {bool: "a bool (true or false)", int: "an integer", float: "a number", str: "a string"}
    words |= {tuple: "a list such as 1,2,3"}
    expected_words = words.get(expected, expected.__name__)
    return UserError(
        f"config.{name}: expected {expected_words}, got {got!r} ({type(got).__name__})"
    )


def to_json(config: ConfigDict) -> str:
    """Return the config as JSON text with sorted keys."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def read_config(path: str | Path) -> ConfigDict:
    """Read a run's config.json; raise UserError if it holds no config."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a run's config ({error})") from error
    return from_json(text, source=str(path))


def from_json(text: str, source: str = "config.json") -> ConfigDict:
    """Parse the output of `to_json`; raise UserError if it is not a config."""
    try:
        fields = decode_json(text)
    except ValueError as error:
        raise UserError(f"{source}: not a run's config ({error})") from error
    if not isinstance(fields, dict):
        raise UserError(f"{source}: not a run's config, expected a JSON object")
    return complete_config(with_tuples(fields), source=source, stored=True)


def with_tuples(value: Any) -> Any:
    """Convert JSON lists back to tuples, recursively."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(with_tuples(item) for item in value) if isinstance(value, list) else value
