"""Documents rendered as HTML, as Markdown and on the terminal."""

import pytest

from eval.report.document import (
    Facts,
    Fold,
    Heading,
    Mark,
    Picture,
    Sample,
    Table,
    Text,
    Tiles,
    printable,
    provenance,
    to_html,
    to_markdown,
    to_terminal,
)

BLOCKS = [
    Text("It learns & forgets.", "lead"),
    Tiles([("1.478", "nats")]),
    Heading("Scores <all>"),
    Table(
        ["cell", "loss", "gate"],
        [["rwkv7", "1.4", Mark("pass", "good")], ["a|b", "1.5", "-"]],
        left=(0, 2),
        styles={1: "strong"},
        rules=(1,),
    ),
    Picture("<svg></svg>", "A picture."),
    Text("[b]\x1b[2J"),
    Sample("  [red]said\x1b[2J\nso", "asked:"),
    Fold("more", [Text("folded away")]),
    *provenance({"split": "all"}, command="python -m x", seed=0, versions={"jax": "1"}, seconds=2),
]


def test_html():
    page = to_html("Run <1>", BLOCKS, "seed 0")
    assert page.startswith("<!doctype html>")
    for part in (
        "<title>Run &lt;1&gt;</title>",
        '<h1>Run &lt;1&gt;</h1>\n<p class="sub">seed 0</p>',
        '<p class="lead">It learns &amp; forgets.</p>',
        "<h2>Scores &lt;all&gt;</h2>",
        '<td>rwkv7</td><td class="number">1.4</td><td class="good">pass</td>',
        '<tr class="strong"><td>a|b</td>',
        "<svg></svg><figcaption>A picture.</figcaption>",
        '<span class="prompt">asked:</span>  [red]said\ufffd[2J\nso</pre>',
        "<summary>more</summary><p>folded away</p></details>",
        '<th scope="row">command</th><td><code>python -m x</code></td>',
        '<th scope="row">time</th><td>2.0 s</td>',
    ):
        assert part in page


def test_markdown():
    assert to_markdown(BLOCKS, "Run").splitlines() == [
        *("# Run", "", "It learns & forgets.", "", "## Scores <all>", ""),
        *("| cell | loss | gate |", "| --- | ---: | --- |", "| rwkv7 | 1.4 | pass |"),
        *("| a\\|b | 1.5 | - |", "", "[b]\ufffd[2J", ""),
        *("## How it was made", "", "* command: `python -m x`", "* split: all", "* seed: 0"),
        *("* versions: jax 1", "* time: 2.0 s"),
    ]


def test_terminal(capsys):
    to_terminal(BLOCKS, width=120)
    text = capsys.readouterr().out
    for part in ("It learns & forgets.", "Scores <all>", "│ rwkv7 │  1.4 │ pass │", "[b]\ufffd[2J"):
        assert part in text
    assert "picture" not in text and "folded" not in text and "\x1b" not in text


@pytest.mark.parametrize("width", [34, 60])
def test_a_narrow_terminal_cuts_nothing(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [[name, "1,234,567", "1,234,567"] for name in ("gated_delta", "gated_delta_2")]
    to_terminal([Table(["", "parameters", "tokens_per_second"], rows)])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width and line[-1] in "┓┃┩│┘" for line in lines)
    assert not any("\u2026" in line for line in lines)
    assert width == 34 or any("│ gated_delta_2 │" in line for line in lines)


def test_a_long_name_leaves_its_row_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    header = ["field", "KL", "loss", "kept", "Stage-1 cosine", "R^2 of logits"]
    names = "two stages, through both", "two stages, apart"
    to_terminal([Table(header, [[name, *["0.235"] * 5] for name in names])])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 and line[-1] in "┓┃┩│┘" for line in lines)


def test_provenance_omits_missing_facts():
    assert provenance() == []
    heading, facts = provenance(device="1 x cpu", command=None)
    assert heading == Heading("How it was made")
    assert facts == Facts({"device": "1 x cpu"}, ("command", "digest"))


def test_printable():
    assert printable("a\tb\n\u00a0\u3000\x07\x9b\u202e") == "a\tb\n\u00a0\u3000\ufffd\ufffd\ufffd"
