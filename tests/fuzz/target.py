"""What a fuzz target is.

A target takes a folder, which is empty, and an input. It returns, or raises a UserError of one
line; anything else is a fault.
"""

import shutil
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


def in_folder(target: Target, folder: Path, given: Any) -> str:
    """Return the `outcome` of an input in a folder that is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return outcome(target, folder, given)
