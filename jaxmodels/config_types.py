"""Check of the values of a config against the annotations of its fields."""

import functools
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxmodels.errors import UserError

WORDS = {int: "an integer", float: "a number", bool: "True or False", str: "a text"}


def check_types(config_class: type, fields: Mapping[str, Any]) -> None:
    """Raise UserError for the first value that is not of the type its field is annotated with."""
    for name, value in fields.items():
        hint = _hints(config_class)[name]
        if not _fits(value, hint):
            raise UserError(f"{name} must be {_words(hint)}, got {value!r}")


@functools.cache
def _hints(config_class: type) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        whole = parts[:-1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(whole) and all(map(_fits, value, whole))
    if hint in (int, float):  # NumPy's as well
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, (tuple, list) if hint is tuple else origin or hint)


def _words(hint: Any) -> str:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(map(_words, parts))
    if hint is type(None):
        return "None"
    return WORDS.get(hint, str(hint) if parts else getattr(hint, "__name__", str(hint)))
