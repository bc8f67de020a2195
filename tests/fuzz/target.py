"""What a fuzz target is.

A target takes a folder, which is empty, and an input. It returns, or raises a UserError of one
line; anything else is a fault.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from jaxmodels.errors import UserError, one_line


@dataclass(frozen=True)
class Target:
    """A function of (empty folder, input), and the strategy of its input."""

    call: Callable[[Path, Any], Any]
    inputs: st.SearchStrategy


def outcome(target: Target, folder: Path, given: Any) -> str:
    """Return "read" or "refused"; raise AssertionError at a refusal that says nothing."""
    try:
        target.call(folder, given)
    except UserError as error:
        text = one_line(str(error))
        assert text, "an empty line"
        return "refused"
    return "read"
