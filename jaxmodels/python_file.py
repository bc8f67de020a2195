"""Import of Python files by path, such as configs and cells."""

import difflib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxmodels.errors import UserError
from jaxmodels.paths import is_file, shown, user_path


def import_file(path: str | Path, flag: str = "", purpose: str = "") -> ModuleType:
    """Run a Python file and return it as a module.

    Args:
      path: path of the file.
      flag: command-line flag of the path, for messages, e.g. "--config=".
      purpose: requirement on the file, for messages, e.g. "that defines get_config()".

    Raises:
      UserError: no such file, not Python, or an exception when it is run; names its line.
    """
    path = user_path(path, flag)
    if not is_file(path, flag):
        siblings = [other.name for other in path.parent.glob("*.py")]
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"{flag}{shown(path)}: no such file{hint}")
    spec = importlib.util.spec_from_file_location(f"file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{flag}{path}: not a Python file (.py) {purpose}".rstrip())
    module = importlib.util.module_from_spec(spec)
    # Registered during the import only: dataclasses look modules up there.
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        _explained(path, flag, lambda: spec.loader.exec_module(module))
    finally:
        sys.modules.pop(module.__name__)
        if before is not None:
            sys.modules[module.__name__] = before
    return module


def returned_by(path: str | Path, function: str, flag: str, example: str, *arguments) -> Any:
    """Call a function of a Python file and return its result.

    Args:
      path: path of the file.
      function: name of the function.
      flag: command-line flag of the path, for messages, e.g. "--config".
      example: a file that defines such a function, for messages.
      *arguments: arguments of the function.

    Raises:
      UserError: no such file or function, or an exception in one of them; names its line.
    """
    path = user_path(path, f"{flag}=")
    module = import_file(path, f"{flag}=", f"that defines {function}()")
    if not callable(getattr(module, function, None)):
        raise UserError(f"{flag}={path}: it defines no {function}(); see {example}")
    return _explained(path, f"{flag}=", lambda: getattr(module, function)(*arguments))


def _explained(path: Path, flag: str, call: Callable[[], Any]) -> Any:
    """Call, and turn any exception into a UserError that names the line in the file."""
    try:
        return call()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{flag}{path}: line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        place = f"line {own[-1]}: " if own else ""
        message = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}{path}: {place}{type(error).__name__}: {message}") from error
