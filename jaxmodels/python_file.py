"""Import of Python files by path, such as configs and cells."""

import contextlib
import difflib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxmodels.errors import UserError
from jaxmodels.paths import is_file, shown, user_path


def import_file(path: str | Path, flag: str = "", purpose: str = "") -> ModuleType:
    """Run a Python file and return it as a module; it may import the modules beside it.

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
        with modules_beside(path):
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
    with modules_beside(path):
        module = import_file(path, f"{flag}=", f"that defines {function}()")
        if not callable(getattr(module, function, None)):
            raise UserError(f"{flag}={path}: it defines no {function}(); see {example}")
        return _explained(path, f"{flag}=", lambda: getattr(module, function)(*arguments))


@contextlib.contextmanager
def modules_beside(path: str | Path) -> Iterator[None]:
    """Find imports in the folder of a file as well, as `python file.py` does, within the block.

    The standard library goes first. What was found there is forgotten at the end: a file of another
    folder may have a helper of the same name.
    """
    folder = Path(path).resolve().parent
    if any(Path(entry).resolve() == folder for entry in sys.path):
        yield
        return
    finder = _Folder(folder)
    importlib.invalidate_caches()  # a helper may have been written a moment ago
    sys.meta_path.insert(0, finder)
    sys.path.append(str(folder))  # so that a block within this one adds nothing
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            if name.partition(".")[0] in finder.found:
                del sys.modules[name]


class _Folder:
    """A finder of the modules in one folder, which notes the names it found."""

    def __init__(self, folder: Path):
        self.folder, self.found = str(folder), set()

    def find_spec(self, name, path=None, target=None):
        """See `importlib.abc.MetaPathFinder`."""
        if path is not None or name in sys.stdlib_module_names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [self.folder])
        if spec is None or spec.loader is None:  # a folder without __init__.py may mean another
            return None
        self.found.add(name)
        return spec


def _explained(path: Path, flag: str, call: Callable[[], Any]) -> Any:
    """Call, and turn any exception into a UserError that names the line in the file.

    Or the line in a module beside it.
    """
    try:
        return call()
    except UserError:
        raise
    except SyntaxError as error:
        place = _place(path, error.filename or path, error.lineno)
        raise UserError(f"{flag}{path}: {place}{error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [_place(path, frame.filename, frame.lineno) for frame in frames]
        place = next(filter(None, reversed(places)), "")
        message = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}{path}: {place}{type(error).__name__}: {message}") from error


def _place(path: Path, other: str | Path, line: int | None) -> str:
    """Return "line 3: ", with the name of the other file if it lies beside, "" if elsewhere."""
    other, path = Path(other).resolve(), path.resolve()
    if other.parent != path.parent:
        return ""
    return f"line {line}: " if other == path else f"{other.name} line {line}: "
