"""Sessions on disk: a file each, whole or absent whenever the process ends.

A session is written to a hidden file beside, flushed to the disk, and renamed. What a process left
unfinished is removed by the next.
"""

import os
import re
import shutil
import threading
import uuid
from pathlib import Path

from eval.serve.limits import ApiError
from eval.serve.openapi import NAME
from jaxmodels.errors import DiskError, UserError
from jaxmodels.generation.request import Session
from jaxmodels.session import load_session, save_session

ENDING = ".state"
TEMPORARY = ".tmp"


class Store:
    """Saved sessions of a model, in a folder that no other server uses.

    Args:
      folder: made if it is missing.
      model: of the sessions.
      most: number of sessions; most_bytes: of all files.
    """

    def __init__(self, folder: Path, model, most: int, most_bytes: int):
        self.folder, self.model, self.most, self.most_bytes = folder, model, most, most_bytes
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        self._sizes = {
            path.name.removesuffix(ENDING): path.stat().st_size
            for path in sorted(folder.glob(f"*{ENDING}"))
            if re.match(NAME, path.name.removesuffix(ENDING))
        }

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        with self._lock:
            return sum(self._sizes.values())

    def names(self) -> list[str]:
        """Return the names of all sessions, sorted."""
        with self._lock:
            return sorted(self._sizes)

    def about(self, name: str) -> dict:
        """Return what is told of a session; raise ApiError if there is none."""
        path = self._existing(name)
        try:
            modified = int(path.stat().st_mtime)
        except OSError as error:
            raise _missing(name) from error
        return {"id": name, "object": "session", "bytes": self._sizes[name], "modified": modified}

    def load(self, name: str) -> Session:
        """Return a session; raise ApiError if there is none or its file is damaged."""
        try:
            session = load_session(self._existing(name), self.model)
        except UserError as error:
            reason = str(error).removeprefix(f"{self.folder / name}{ENDING}: ")
            raise ApiError(409, f"session {name!r}: {reason}", param="session_in") from error
        return session

    def save(self, name: str, session: Session, *, replace: bool) -> None:
        """Write a session; raise ApiError if it exists (unless `replace`) or nothing more fits."""
        temporary = self._temporary(name)
        try:
            save_session(session, self.model, temporary)
            self._install(temporary, name, replace)
        except DiskError as error:
            raise ApiError(507, "the disk is full or fails", code="disk") from error
        finally:
            temporary.unlink(missing_ok=True)

    def fork(self, name: str, to: str) -> None:
        """Copy a session to a new name; raise ApiError if there is none or the name is taken."""
        _checked(to)
        temporary = self._temporary(to)
        try:
            shutil.copyfile(self._existing(name), temporary)
            self._install(temporary, to, False)
        except OSError as error:
            raise ApiError(507, "the disk is full or fails", code="disk") from error
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a session; raise ApiError if there is none."""
        path = self._existing(name)
        with self._lock:
            path.unlink(missing_ok=True)
            self._sizes.pop(name, None)

    def must_be_free(self, name: str) -> None:
        """Raise ApiError if a session of this name exists, or if there may be no more."""
        with self._lock:
            self._check(_checked(name), 0, False)

    def _temporary(self, name):
        return self.folder / f".{name}.{uuid.uuid4().hex}{TEMPORARY}"

    def _install(self, temporary: Path, name: str, replace: bool):
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        with self._lock:
            self._check(name, size, replace)
            os.replace(temporary, self.folder / f"{name}{ENDING}")
            self._sizes[name] = size
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _check(self, name, size, replace):
        if name in self._sizes and not replace:
            raise ApiError(409, f"session {name!r} exists already", param="session_out")
        others = {k: v for k, v in self._sizes.items() if k != name}
        if len(others) >= self.most:
            raise ApiError(507, f"{self.most} sessions are saved; delete one", code="sessions")
        if sum(others.values()) + size > self.most_bytes:
            message = f"sessions would take more than {self.most_bytes} bytes; delete some"
            raise ApiError(507, message, code="session_bytes")

    def _existing(self, name) -> Path:
        with self._lock:
            if _checked(name) not in self._sizes:
                raise _missing(name)
        return self.folder / f"{name}{ENDING}"


def _checked(name: str) -> str:
    if not re.match(NAME, name) or name != name.strip():
        message = "a session's name has 1 to 64 of the characters A-Z a-z 0-9 . _ -"
        raise ApiError(400, f"{message}, and begins with a letter or digit", param="session")
    return name


def _missing(name: str) -> ApiError:
    return ApiError(404, f"no session {name!r:.80}", param="session_in", code="session_not_found")
