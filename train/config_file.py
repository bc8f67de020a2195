"""A Python file that defines `get_config()`: found, run, and its mistakes told in one line."""

from __future__ import annotations

import difflib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmodels.errors import UserError


def get_config_of(path: Path) -> Any:
    """What `get_config()` of the file returns.

    Raises:
      UserError: no such file, no such function, or whatever one of the two raised, with its line.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"--config={path}: no such file{hint}")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"--config={path}: not a Python file, expected one that defines get_config()"
        )
    module = importlib.util.module_from_spec(spec)
    _run(path, lambda: spec.loader.exec_module(module))
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"--config={path}: it defines no get_config(), see configs/prernk.py")
    return _run(path, module.get_config)


def _run(path: Path, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--config={path}: line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        place = f"line {own[-1]}: " if own else ""
        message = " ".join(str(error).split())[:300]
        raise UserError(f"--config={path}: {place}{type(error).__name__}: {message}") from error
