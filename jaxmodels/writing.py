"""Writing of new files and folders, all or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxmodels.errors import UserError, from_os
from jaxmodels.paths import is_dir, shown, temporary_beside


@contextlib.contextmanager
def written_whole(destination: Path, *, parents: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `destination`; rename it when the block succeeds.

    Args:
      destination: new file or folder.
      parents: create missing parent folders.

    Raises:
      UserError: the destination exists or cannot be written, or its folder does not exist.
    """
    must_be_new(destination)
    if not (parents or is_dir(destination.parent)):
        raise UserError(f"{destination}: no folder {str(destination.parent)!r}; create it first")
    temporary = temporary_beside(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        must_be_new(destination)  # another process may have written it in the meantime
        os.rename(temporary, destination)
    except OSError as error:
        raise from_os(error, f"{shown(destination)}: cannot be written") from error
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def must_be_new(destination: Path) -> None:
    """Raise UserError if the path exists, or could not exist."""
    try:
        os.lstat(destination)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # e.g. a name of 256 bytes
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{destination}: cannot be written ({reason})") from error
    raise UserError(f"{destination}: exists already; name a new one or remove it")
