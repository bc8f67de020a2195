"""Declarations of config fields: one table per group, next to the code that owns it.

    FIELDS = (free("steps", 1000, "Number of updates.", at_least(1)), ...)

`train/config/schema.py` derives from these tables defaults, type and value checks, the listing of
`python -m train --help-config` and the set of fields that may change on resume.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError

Check = Callable[[Any], str]  # value -> error message, or ""


@dataclass(frozen=True)
class Field:
    """A field of an experiment's config.

    Attributes:
      name: name within its group.
      default: also gives the type; a dict marks an open group, whose keys the user chooses.
      doc: one line.
      check: check of a single value; None accepts any value of the type.
      resume: True if a run may be resumed with another value.
    """

    name: str
    default: Any
    doc: str
    check: Check | None = None
    resume: bool = False


free = functools.partial(Field, resume=True)  # a field that may change on resume


@dataclass(frozen=True)
class Group:
    """The fields of one owner and their joint check.

    Attributes:
      name: "optimizer" for `config.optimizer.*`; "" for fields at the top level.
      fields: the table.
      check: config -> None, raises UserError; called after the checks of single values.
    """

    name: str
    fields: tuple[Field, ...]
    check: Callable[[ConfigDict], None] | None = None

    @property
    def prefix(self) -> str:
        """Return the prefix of a field's dotted name: "optimizer." or ""."""
        return f"{self.name}." if self.name else ""

    def validate(self, config: ConfigDict) -> None:
        """Check every value, then the group; raise a UserError that names field, error and fix."""
        values = config[self.name] if self.name else config
        for field in self.fields:
            if field.check and (wrong := field.check(values[field.name])):
                raise UserError(f"config.{self.prefix}{field.name}: {wrong}")
        if self.check is not None:
            self.check(config)


def at_least(least: int) -> Check:
    """Accept numbers >= `least`."""
    rule = "must not be negative" if least == 0 else f"must be at least {least}"
    return lambda value: "" if value >= least else f"{rule}, got {value}"


def count(value: int) -> str:
    """Accept 1 to 2^31 - 1, what devices count in int32."""
    return at_least(1)(value) or ("" if value < 2**31 else f"must be below 2^31, got {value}")


def positive(value: float) -> str:
    """Accept numbers > 0."""
    return "" if value > 0 else f"must be positive, got {value}"


def non_negative_finite(value: float) -> str:
    """Accept finite numbers >= 0."""
    return "" if math.isfinite(value) and value >= 0 else f"must be >= 0, got {value}"


def within(interval: str) -> Check:
    """Accept numbers between 0 and 1; `interval` is "[0, 1]", "[0, 1)" or "(0, 1)"."""
    open_left, open_right = interval[0] == "(", interval[-1] == ")"

    def check(value: float) -> str:
        inside = 0 <= value <= 1  # False for NaN
        if inside and not (value == 0 and open_left) and not (value == 1 and open_right):
            return ""
        return f"must be in {interval}, got {value}"

    return check


def one_of(options: Sequence[str]) -> Check:
    """Accept the names in `options`."""
    return lambda value: (
        "" if value in options else f"unknown value {value!r}{did_you_mean(value, options)}"
    )


def texts(values: Sequence[Any]) -> str:
    """Accept lists of texts."""
    wrong = [value for value in values if not isinstance(value, str)]
    return f"must be a list of texts, got {wrong[0]!r} in it" if wrong else ""
