"""Paths, links, commands, acceptance ids and config fields that the documentation states.

`python -m tests.test_docs` rewrites the table of config fields in docs/config.md.
"""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from train.config.schema import FIELDS

ROOT = Path(__file__).parents[1]
CONFIG_PAGE = ROOT / "docs/config.md"
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("Data/**/README.md")])
FOLDERS = ("jaxmodels", "train", "eval", "configs", "tests")
ID = r"\b[FGLPRZ]-\d\d\d?[a-z]?\b"
ANCHOR = "<!-- fields: begin -->\n", "<!-- fields: end -->"
# A path starts with a folder or file of the root, of jaxmodels/ or of the page's own folder.
BASES = (ROOT, ROOT / "jaxmodels")
TOP = {path.name for base in BASES for path in base.iterdir()}
HISTORICAL = ("docs/results/groundthink/", "docs/results/hrlm/")  # commands as they were recorded

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def field_table() -> str:
    """Return the table of all config fields as Markdown."""
    lines = ["| field | default | meaning | may change on resume |", "|---|---|---|---|"]
    for name, field in FIELDS.items():
        resume = "yes" if field.resume else ""
        doc = field.doc.replace("|", r"\|")
        lines.append(f"| `{name}` | `{field.default!r}` | {doc} | {resume} |")
    return "\n".join(lines) + "\n"


def with_field_table(page: str) -> str:
    """Return the page with the table between its two marks replaced."""
    before, _, rest = page.partition(ANCHOR[0])
    _, _, after = rest.partition(ANCHOR[1])
    return before + ANCHOR[0] + field_table() + ANCHOR[1] + after


def command_lines(page: Path) -> list[str]:
    """Return every `python -m ...` of a page: indented lines, continuations joined, and inline."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (?:.*\s)?(python -m .*)$", text, re.M)
    return lines + re.findall(r"`(python -m [^`]*)`", text)


def options_of(module: str) -> set[str] | None:
    """Return the options that occur in a command's package; None without a parser of its own."""
    path = Path(importlib.util.find_spec(module).origin)
    files = path.parent.glob("*.py") if path.name == "__main__.py" else [path]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    source += (ROOT / "jaxmodels/cli.py").read_text(encoding="utf-8")
    return set(re.findall(r"\"(--[a-z][a-z-]*)\"", source))


def runs_as_script(module: ModuleType) -> bool:
    """Return whether a module does something when it is run."""
    return '__name__ == "__main__"' in Path(module.__file__).read_text(encoding="utf-8")


def main_module(name: str) -> str:
    """Return the module that `python -m name` runs."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"no module {name}"
    return f"{name}.__main__" if spec.submodule_search_locations else name


def test_every_cited_acceptance_id_is_a_row():
    rows = set(re.findall(rf"^\| ({ID}) \|", (ROOT / "docs/systems.md").read_text(), re.M))
    assert len(rows) > 150
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    for path in [*sources, *PAGES]:
        unknown = set(re.findall(ID, path.read_text(encoding="utf-8"))) - rows
        assert not unknown, f"{path.relative_to(ROOT)} cites {sorted(unknown)}"


def test_acceptance_rows_have_a_status_and_evidence():
    for line in (ROOT / "docs/systems.md").read_text(encoding="utf-8").splitlines():
        if re.match(rf"\| {ID} \|", line):
            _, row, requirement, status, evidence, _ = (cell.strip() for cell in line.split("|"))
            assert requirement and re.fullmatch(r"shown|(partly|open|out of scope): .+", status), (
                row
            )
            assert evidence or status != "shown", row


@every_page
def test_paths_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for quoted in re.findall(r"`([^`\s]+)`", text):
        path = quoted.split(":")[0]
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path) or path.split("/")[0] not in TOP:
            continue
        if "/" in path:
            assert any((base / path).exists() for base in BASES), f"no file {path}"


@every_page
def test_relative_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"no file {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\s-]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in slugs, f"no section {target}"


@every_page
def test_commands_exist(page):
    if str(page.relative_to(ROOT)).startswith(HISTORICAL):
        pytest.skip("the command of the run, as it was recorded")
    for line in command_lines(page):
        words = shlex.split(line, comments=True)
        name = words[2]
        if name.split(".")[0] not in FOLDERS:
            continue
        module = importlib.import_module(main_module(name))
        assert hasattr(module, "main") or runs_as_script(module), line
        for word in words[3:]:
            if word.startswith("--config.") or not word.startswith("--"):
                continue
            assert word.split("=")[0] in options_of(module.__name__), f"no {word} in {line}"


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for page in PAGES:
        named = re.findall(r"^    make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(), re.M)
        for target in filter(None, (name for pair in named for name in pair)):
            assert target in targets, f"{page}: no make target {target}"


@every_page
def test_config_files_in_commands_exist(page):
    for path in re.findall(r"--config=(\S+?\.py)", page.read_text(encoding="utf-8")):
        if path.startswith("configs/"):
            assert (ROOT / path).is_file(), f"no file {path}"


def test_table_of_fields_is_current():
    page = CONFIG_PAGE.read_text(encoding="utf-8")
    assert page == with_field_table(page), "run python -m tests.test_docs"


def main() -> None:
    """Rewrite the table of fields in docs/config.md."""
    page = CONFIG_PAGE.read_text(encoding="utf-8")
    CONFIG_PAGE.write_text(with_field_table(page), encoding="utf-8")


if __name__ == "__main__":
    main()
