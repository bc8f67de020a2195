"""Parameter matching: solve for the field value that brings a model nearest to a count."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxmodels.errors import UserError


def dotted(config: ConfigDict, name: str) -> str:
    """Return a field's full name; a name that the config lacks is a field of the model."""
    return name if name.partition(".")[0] in config else f"model_config.{name}"


def count(config: ConfigDict) -> int:
    """Count the parameters of a config's model from its shapes."""
    import jax

    from jaxmodels import count_parameters
    from train.model import build_model

    return count_parameters(jax.eval_shape(lambda: build_model(config)))


def matched_value(
    config_with: Callable[[Mapping[str, Any]], ConfigDict],
    field: str,
    target: int,
    multiple: float | None = None,
) -> int | float:
    """Return the field value that brings the number of parameters nearest to `target`.

    Args:
      config_with: {field: value} -> complete config; its parameters must grow with the value.
      field: an integer or float field of the config.
      target: number of parameters.
      multiple: step of the value; default: 1 for an integer, 1/32 for a float.

    Raises:
      UserError: the field is not a number, or the parameters do not grow with it.
    """
    start = _value(config_with({}), field)
    unit = multiple or (1 if isinstance(start, int) else 1 / 32)
    counts: dict[int, int] = {}

    def value_of(k):
        return k * unit if isinstance(start, float) else round(k * unit)

    def at(k):
        if k not in counts:
            try:
                counts[k] = count(config_with({field: value_of(k)}))
            except UserError as error:
                raise UserError(f"match {field!r}: {error}; set 'multiple'") from error
        return counts[k]

    low, high = 1, max(2, round(start / unit))
    while at(high) < target:
        low, high = high, 2 * high
        if high > 2**20:
            raise UserError(f"match {field!r}: the parameters do not grow with it")
    while high - low > 1 and at(low) < target:
        # Regula falsi: the count is a polynomial of low degree.
        fraction = (target - at(low)) / max(at(high) - at(low), 1)
        guess = min(max(low + round(fraction * (high - low)), low + 1), high - 1)
        for k in (guess, guess + 1):  # the second usually closes the bracket
            if low < k < high:
                low, high = (k, high) if at(k) < target else (low, k)
    return value_of(min((low, high), key=lambda k: abs(at(k) - target)))


def _value(config: ConfigDict, name: str) -> int | float:
    """Return a numeric field of the config, or else the model's default for it."""
    import jaxmodels

    *groups, last = dotted(config, name).split(".")
    node = config
    for group in groups:
        node = node.get(group, ConfigDict())
    value = node.get(last)
    if value is None and groups == ["model_config"] and ":" not in config.model:
        own = jaxmodels.make_config(config.model, **config.model_config.to_dict())
        value = getattr(own, last, None)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value > 0):
        raise UserError(f"match {name!r}: must be a field with a positive number, got {value!r}")
    return value
