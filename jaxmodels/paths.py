"""Paths as people type them: `~` is expanded, and one that cannot be looked at is an error."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from jaxmodels.errors import UserError

SHOWN = 120  # characters of a path in a message; text that was given for a path is longer


def user_path(path: str | Path, flag: str = "") -> Path:
    """Return a path with `~` and `~name` expanded; `~$notes.txt`, which is no user, stays a name.

    Args:
      path: as typed.
      flag: option that it belongs to, for messages, e.g. "--workdir=".

    Raises:
      UserError: an empty path, `~` without a home folder, or a NUL in the path.
    """
    text = os.fspath(path)
    if not text:  # Path("") is the working folder, which nobody means by it
        raise UserError(f"{flag}'': a path must not be empty (a variable that is not set?)")
    if "\0" in text:
        raise UserError(f"{flag}{shown(text)!r}: a path must not contain NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        if Path(text).parts[0] == "~":
            raise UserError(
                f"{flag}{shown(text)}: the home folder is unknown (HOME is not set); "
                "write the whole path"
            ) from error
    return Path(text)


def is_file(path: Path, flag: str = "") -> bool:
    """Return whether a path is a regular file; raise UserError where that cannot be seen."""
    return stat.S_ISREG(_mode(path, flag))


def is_dir(path: Path, flag: str = "") -> bool:
    """Return whether a path is a folder; raise UserError where that cannot be seen."""
    return stat.S_ISDIR(_mode(path, flag))


def exists(path: Path, flag: str = "") -> bool:
    """Return whether a path exists; raise UserError where that cannot be seen."""
    return _mode(path, flag) != 0


def _mode(path: Path, flag: str) -> int:
    """Return the mode of a path, 0 if there is none.

    `Path.is_file` raises OSError for a name that is too long and in a folder that may not be
    entered.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise UserError(f"{flag}{shown(path)}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{error.strerror}; a folder on the way may not be entered"
    return f"{error.strerror}; give another path"


def shown(path: str | Path) -> str:
    """Return a path for a message, shortened in the middle if it is very long."""
    text = str(path)
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]}...{text[-half:]}"


def temporary_beside(path: Path) -> Path:
    """Return a hidden name of this process beside a path; never too long where the path is not."""
    return path.with_name(f".{path.name[:50]}.{os.getpid()}.tmp")
