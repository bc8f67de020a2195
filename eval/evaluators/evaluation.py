"""The outcome of an evaluator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """What was measured, which can be shown although it cannot be stored.

    Attributes:
      result: JSON values.
      store: writes JSON and report and returns their paths; raises UserError if it cannot.
    """

    result: dict[str, Any]
    store: Callable[[], list[str]]
