"""The layout of the repository: which way imports point, and how large modules may grow."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("jaxmodels", "configs", "train", "eval")
# An importer of the first never imports the second: ops <- cells <- models <- train <- eval.
FORBIDDEN = [
    ("jaxmodels.ops", "jaxmodels.cells"),
    ("jaxmodels.ops", "jaxmodels.models"),
    ("jaxmodels.ops", "jaxmodels.data"),
    ("jaxmodels.cells", "jaxmodels.models"),
    ("jaxmodels.cells", "jaxmodels.data"),
    ("jaxmodels.data", "jaxmodels.ops"),
    ("jaxmodels.data", "jaxmodels.cells"),
    ("jaxmodels.data", "jaxmodels.models"),
    ("jaxmodels.models", "jaxmodels.convert"),
    ("jaxmodels.models", "jaxmodels.testing"),
    ("jaxmodels.models", "jaxmodels.generation"),
    ("jaxmodels.generation", "jaxmodels.convert"),
    ("jaxmodels", "train"),
    ("jaxmodels", "eval"),
    ("jaxmodels", "configs"),
    ("configs", "eval"),
]
MAX_MODULES, MAX_FUNCTION, MAX_FILE = 15, 100, 400


@functools.cache
def modules() -> dict[str, Path]:
    """Every product module by its dotted name."""
    found = {}
    for room in PRODUCT:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Product modules that a module imports, inside functions and for type checkers too."""
    path, found = modules()[module], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in modules() else node.module)
    return frozenset(found & modules().keys() - {module})


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def is_command(path: Path) -> bool:
    """Return whether a module is run; nobody's library, it may import from rooms around it."""
    return 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def room_of(module: str) -> str:
    """The folder of a module; the module itself if it is a command or has folders as neighbours."""
    path = modules()[module]
    nested = any(p.is_dir() and any(p.glob("*.py")) for p in path.parent.iterdir())
    return module if nested or is_command(path) else ".".join(path.parent.relative_to(ROOT).parts)


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return a circle of imports, [] if there is none."""
    try:
        tuple(graphlib.TopologicalSorter(edges).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize(("importer", "imported"), FORBIDDEN)
def test_imports_point_one_way(importer, imported):
    wrong = [
        f"{module} imports {target}"
        for module in modules()
        if within(module, importer)
        for target in imports(module)
        if within(target, imported)
    ]
    assert not wrong


def test_train_imports_eval_only_after_training():
    used = {x for m in modules() if within(m, "train") for x in imports(m) if within(x, "eval")}
    assert used == {"eval.after_training"}


def test_modules_have_no_import_cycle():
    assert not cycle({module: set(imports(module)) for module in modules()})


@pytest.mark.parametrize("top", ["jaxmodels", "configs", "train", "eval"])
def test_folders_have_no_import_cycle(top):
    edges: dict[str, set[str]] = {}
    for module in modules():
        if within(module, top):
            targets = {room_of(target) for target in imports(module) if within(target, top)}
            edges.setdefault(room_of(module), set()).update(targets - {room_of(module)})
    assert not cycle(edges)


def test_philox_is_used_in_one_module():
    """One definition of a stream: what a run draws can then be pinned in one place."""
    users = {m for m, path in modules().items() if "random.Philox" in path.read_text()}
    assert users == {"jaxmodels.data.random"}


@pytest.mark.parametrize("top", PRODUCT)
def test_folders_have_few_modules(top):
    folders = {path.parent for module, path in modules().items() if within(module, top)}
    counts = {
        str(folder.relative_to(ROOT)): sum(p.name != "__init__.py" for p in folder.glob("*.py"))
        for folder in folders
    }
    assert not {name: count for name, count in counts.items() if count > MAX_MODULES}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the lines of each function of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("top", PRODUCT)
def test_functions_and_files_stay_small(top):
    paths = [path for module, path in modules().items() if within(module, top)]
    long = {name: n for path in paths for name, n in functions(path) if n > MAX_FUNCTION}
    assert not long
    sizes = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in paths}
    assert not {name: n for name, n in sizes.items() if n > MAX_FILE}
