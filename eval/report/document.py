"""Documents as lists of blocks, rendered as an HTML page, as Markdown or on the terminal.

    blocks = [Text("It learns.", "lead"), Table(("cell", "loss"), [["rwkv7", "1.478"]])]
    blocks += provenance(command="python -m ...", device="1 x cpu")
    to_html("Title", blocks), to_markdown(blocks), to_terminal(blocks)

All text is plain: each renderer escapes it and replaces control characters.
"""

import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from eval.report.style import CSS

# Style of a text, a row or a mark -> Rich style. In HTML it is the class of the element.
STYLES = {"lead": "", "missing": "dim", "strong": "bold"}
STYLES |= {"good": "green", "warn": "yellow", "bad": "red", "dim": "dim"}


@dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `style`: "lead" for the main result, "missing" for a note on absent data, ""."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Tiles:
    """A row of large numbers: (value, name); HTML only."""

    numbers: Sequence[tuple[str, str]]


class Mark(str):
    """The text of a table cell with a style: "good", "warn", "bad" or "dim"."""

    def __new__(cls, text: str, style: str):
        """Create the string and attach the style."""
        mark = super().__new__(cls, text)
        mark.style = style
        return mark


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: names of the columns.
        rows: cells, as text or `Mark`.
        left: columns of text, aligned left; the others are numbers.
        styles: row -> "strong" or "dim".
        rules: rows preceded by a rule, on the terminal.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    styles: Mapping[int, str] = field(default_factory=dict)
    rules: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """An inline `<svg>` (see `figures.svg`) and its caption; HTML only."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Facts:
    """Names and values, those of the names in `code` in monospace; not on the terminal."""

    rows: Mapping[str, str]
    code: Sequence[str] = ()


@dataclass(frozen=True)
class Sample:
    """Preformatted text after its prompt; HTML only."""

    text: str
    prompt: str = ""


@dataclass(frozen=True)
class Fold:
    """Collapsible blocks; HTML only."""

    summary: str
    blocks: Sequence["Block"]


Block = Heading | Text | Tiles | Table | Picture | Facts | Sample | Fold


def provenance(
    facts: Mapping[str, str] | None = None,
    *,
    command: str | None = None,
    seed: int | str | None = None,
    device: str | None = None,
    versions: Mapping[str, str] | None = None,
    seconds: float | None = None,
    **others,
) -> list[Block]:
    """Return a section on how a result was produced, from the arguments that are not None.

    Args:
        facts: further facts, listed after the command.
        command: the command line to reproduce the result.
        seed: seed of initialization and data.
        device: see `eval.log.device_description`.
        versions: see `eval.log.versions`.
        seconds: wall time.
        **others: ignored, so that a whole result can be passed.
    """
    rows = {"command": command, **(facts or {}), "seed": seed, "device": device}
    if versions:
        rows["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if seconds is not None:
        rows["time"] = f"{seconds:,.1f} s"
    rows = {name: str(value) for name, value in rows.items() if value not in (None, "")}
    return [Heading("How it was made"), Facts(rows, ("command", "digest"))] if rows else []


def printable(text: str) -> str:
    """Replace control characters, which an undertrained model emits and a terminal interprets."""
    return "".join(
        c if c in "\n\t" or not unicodedata.category(c).startswith("C") else "\ufffd" for c in text
    )


def to_html(title: str, blocks: Iterable[Block], subtitle: str = "") -> str:
    """Render a self-contained HTML page in light and dark mode, with `title` as its heading."""
    below = f'<p class="sub">{_escape(subtitle)}</p>' if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join([f"<h1>{_escape(title)}</h1>", below, *map(_html, blocks)])
        + "\n</main>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{_escape(text)}</h2>"
        case Text(text, style):
            return f"<p{_class(style)}>{_escape(text)}</p>"
        case Tiles(numbers):
            cells = (
                f'<div class="tile"><b>{_escape(value)}</b><span>{_escape(name)}</span></div>'
                for value, name in numbers
            )
            return f'<div class="tiles">{"".join(cells)}</div>'
        case Table():
            return _html_table(block)
        case Picture(svg, caption):
            return f"<figure>{svg}<figcaption>{_escape(caption)}</figcaption></figure>"
        case Facts(rows, code):
            body = ""
            for name, value in rows.items():
                value = f"<code>{_escape(value)}</code>" if name in code else _escape(value)
                body += f'<tr><th scope="row">{_escape(name)}</th><td>{value}</td></tr>\n'
            return f"<table>{body}</table>"
        case Sample(text, prompt):
            return f'<pre><span class="prompt">{_escape(prompt)}</span>{_escape(text)}</pre>'
        case Fold(summary, blocks):
            inner = "".join(map(_html, blocks))
            return f"<details><summary>{_escape(summary)}</summary>{inner}</details>"


def _html_table(table: Table) -> str:
    def cells(tag, row):
        return "".join(
            f"<{tag}{_class('' if i in table.left else 'number', getattr(cell, 'style', ''))}>"
            f"{_escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(
        f"<tr{_class(table.styles.get(i, ''))}>{cells('td', row)}</tr>\n"
        for i, row in enumerate(table.rows)
    )
    head = f"<thead><tr>{cells('th', table.header)}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _class(*names: str) -> str:
    names = " ".join(name for name in names if name)
    return f' class="{names}"' if names else ""


def _escape(text: str) -> str:
    return html.escape(printable(text))


def to_markdown(blocks: Iterable[Block], title: str = "") -> str:
    """Render Markdown, under `title` if there is one."""
    parts = [f"# {title}"] if title else []
    parts += filter(None, map(_markdown, blocks))
    return printable("\n\n".join(parts) + "\n")


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Text(text):
            return text
        case Table(header, rows, left):
            rule = ["---" if i in left else "---:" for i in range(len(header))]
            lines = [map(_markdown_cell, header), rule, *(map(_markdown_cell, r) for r in rows)]
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)
        case Facts(rows, code):
            return "\n".join(
                f"* {name}: `{value}`" if name in code else f"* {name}: {value}"
                for name, value in rows.items()
            )
    return ""


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def not_evaluated(workdir: object) -> Text:
    """Say in a run's page that its scores are missing, and how to get them."""
    return Text(f"Not evaluated yet; run python -m eval --workdir={workdir}", "missing")


def to_terminal(blocks: Iterable[Block], width: int = 0) -> None:
    """Print headings, texts and tables, on at least `width` columns."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = max(width, console.width)
    for block in blocks:
        match block:
            case Heading(text):
                console.print(printable(text), style="bold", soft_wrap=True)
            case Text(text, style):
                console.print(
                    printable(text), style=STYLES[style] if style else None, soft_wrap=True
                )
            case Table():
                console.print(_rich_table(block, console.width))


def _rich_table(table: Table, width: int):
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    grid = RichTable()
    cells = [table.header, *table.rows]
    widths = [
        max(len(str(row[i])) for row in cells if i < len(row)) for i in range(len(table.header))
    ]
    fits = sum(widths) + 3 * len(widths) + 1 <= width  # with borders and a space on either side
    # Names are read as a whole. A width, unlike a least width, is what Rich takes others down for.
    first = None if fits else min(widths[0], width // 4)
    for i, name in enumerate(table.header):
        # Words that do not fit are folded: an ellipsis would make names equal.
        justify = "left" if i in table.left else "right"
        grid.add_column(
            RichText(name), justify=justify, overflow="fold", width=None if i else first
        )
    for i, row in enumerate(table.rows):
        if i in table.rules:
            grid.add_section()
        cells = [RichText(printable(c), STYLES[getattr(c, "style", "lead")]) for c in row]
        grid.add_row(*cells, style=STYLES.get(table.styles.get(i, "")))
    return grid
