"""The files of folders and of patterns, and an account of what is left out of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError


def files_of_folder(folder: Path, suffixes: Sequence[str], unused: Unused) -> list[Path]:
    """Return the files of a folder with one of `suffixes` ('' = none), recursively, sorted.

    Left out, and counted: hidden files and folders, files with other suffixes, what is no file, and
    links to folders, which may lead in a circle.

    Raises:
      UserError: a folder in it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); change its permissions, or name "
            "the other files and folders one by one"
        ) from error

    kinds = " ".join("*" + suffix for suffix in suffixes)
    files = []
    for path in _walk(folder, refuse, unused):
        if path.name.startswith("."):
            unused.add("hidden files", path)
        elif not os.path.isfile(path):
            unused.add("links that lead nowhere, and what is no file", path)
        elif path.suffix.lower() not in suffixes:
            unused.add(f"files other than {kinds}", path)
        else:
            files.append(path)
    return sorted(files)


def _walk(folder: Path, refuse: Callable[[OSError], None], unused: Unused):
    """Yield all that is in a folder but folders; count the folders that are not entered."""
    for at, folders, names in os.walk(folder, onerror=refuse):
        entered = []
        for name in sorted(folders):
            path = Path(at, name)
            if name.startswith("."):
                unused.add("hidden folders", path)
            elif path.is_symlink():
                unused.add("links to folders, which must be named themselves", path)
            else:
                entered.append(name)
        folders[:] = entered
        yield from (Path(at, name) for name in sorted(names))


def files_of_pattern(pattern: str, unused: Unused) -> list[Path]:
    """Return the files that match a pattern, sorted; it may contain `**`.

    Folders that match, and folders where it cannot look, are counted.
    """
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in matches if os.path.isfile(path)]
    if "**" not in pattern:
        unused.add("folders that a pattern matches", pattern, len(matches) - len(files))
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    depth = len(parts) - fixed if "**" not in parts else None

    def tell(error: OSError) -> None:
        if isinstance(error, PermissionError):
            unused.add("folders that cannot be read", error.filename)

    base = Path(*parts[:fixed])
    for at, folders, _ in os.walk(base, onerror=tell):
        if depth is not None and len(Path(at).relative_to(base).parts) + 1 >= depth:
            folders.clear()
    return files
