"""Parts that the files of sweeps share, see `eval/sweep/plan.py`."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError


def entry(group: str, says: str, match: str = "", **changes: Any) -> dict[str, Any]:
    """Return an entry: its group, a line on it, the field that is matched, and what it changes."""
    return {"group": group, "says": says, "match": match, "changes": changes}


def choose_preset(presets: Mapping[str, Any], name: str) -> Any:
    """Return what the preset of this name holds.

    Raises:
      UserError: there is no such preset.
    """
    if name not in presets:
        raise UserError(f"--preset {name}{choose_from(presets)}")
    return presets[name]
