"""A Python file that defines a function: found, run, and its mistakes told in one line."""

from __future__ import annotations

import difflib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmodels.errors import UserError


def get_config_of(path: Path) -> Any:
    """What `get_config()` of the file returns; see `returned_by`."""
    return returned_by(path, "get_config", "--config", "configs/prernk.py")


def returned_by(path: Path, function: str, flag: str, example: str) -> Any:
    """What a function of the file returns.

    Args:
      path: of the file.
      function: its name; called without arguments.
      flag: by which the file was given, for messages.
      example: a file that defines one.

    Raises:
      UserError: no such file, no such function, or whatever one of the two raised, with its line.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"{flag}={path}: no such file{hint}")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{flag}={path}: not a Python file, expected one that defines {function}()")
    module = importlib.util.module_from_spec(spec)
    _run(path, flag, lambda: spec.loader.exec_module(module))
    if not callable(getattr(module, function, None)):
        raise UserError(f"{flag}={path}: it defines no {function}(), see {example}")
    return _run(path, flag, getattr(module, function))


def _run(path: Path, flag: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{flag}={path}: line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        place = f"line {own[-1]}: " if own else ""
        message = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}={path}: {place}{type(error).__name__}: {message}") from error
