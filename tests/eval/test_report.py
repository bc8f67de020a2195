"""The report: self-contained, with notes on missing parts."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from eval.__main__ import main as evaluate
from eval.log import read_log
from eval.report import figures
from eval.report.__main__ import main
from eval.report.document import Sample
from eval.report.introspect import leading_component, pictures, sentence
from eval.report.run_page import compose, write_report
from jaxmodels.data import ByteTokenizer, Corpus, Document
from jaxmodels.errors import UserError


class Reader(HTMLParser):
    """Parser that collects text, tags and links, and checks nesting."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.links, self.open = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.endswith(("href", "src"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.endswith(("href", "src"))]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def check(page):
    """Check that the page is self-contained and return its `Reader`."""
    reader = Reader(page)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in reader.links)
    assert "@import" not in page
    assert "url(http" not in page
    assert "script" not in reader.tags
    for stand_in in figures.COLOURS:
        assert stand_in not in page
    assert "prefers-color-scheme: dark" in page
    return reader


def test_report_of_a_finished_run(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    path = write_report(workdir)
    assert path == workdir / "report.html"
    reader = check(path.read_text())
    # curves, norms, relations, mask twice, norms over the sentence, learning rate, gradient norm
    assert reader.tags.count("svg") == 8
    for words in (
        "The run is finished after 12 steps",
        "order-2 byte-Markov baseline",
        "Row-stochastic mask C_t",
        "Relation tensor R_t",
        "A sample at step 12",
        "The same at step 6, validation loss",
        "jaxlib",
        json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["digest"],
    ):
        assert words in reader.text
    bits = read_log(workdir).bits_per_byte("valid")[1][-1]
    assert f"{bits:.3f} bits per byte" in reader.text


def test_report_is_about_one_checkpoint(finished, tmp_path):
    """The page is about the given run, or else the step of eval.json, and states the step."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    assert evaluate([f"--workdir={workdir}", "--checkpoint=6", "--max-bytes=200"]) == 0
    evaluated = check((workdir / "report.html").read_text()).text
    for text in (evaluated, check(write_report(workdir).read_text()).text):
        assert "Inside the model at step 6, over a sentence" in text
        assert "A sample at step 6" in text
        assert "the model (step 6) reaches" in text and "this model, step 6" in text


def test_report_is_repeatable(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    assert write_report(workdir).read_text() == write_report(workdir).read_text()


def test_summary_compares_with_the_baseline(finished):
    log = read_log(finished)
    levels = {"unigram": 4.4, "order-1": 3.5, "order-2": 2.8}
    for bits, side in ((2.3, "0.500 below"), (3.0, "0.200 above")):
        evaluation = {"splits": {"valid": {"bits_per_byte": bits}, "test": {"bits_per_byte": 2.4}}}
        page = compose(log, evaluation | {"baselines": {"valid": levels}})
        text = Reader(page).text
        assert f"reaches {bits:.3f} bits per byte, {side} the order-2" in text
        assert "On the test text it reaches 2.400." in text


def test_partial_runs(finished, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with pytest.raises(UserError, match="holds no run"):
        write_report(workdir)
    shutil.copy(finished / "config.json", workdir)
    text = check(write_report(workdir).read_text()).text
    assert "Nothing was logged yet" in text
    assert "No heat maps" in text
    assert "no checkpoint" in text
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    reader = check(write_report(workdir).read_text())
    assert "So far 4 of 12 steps are logged" in reader.text
    assert "No validation has run yet" in reader.text
    assert reader.tags.count("svg") >= 3
    (workdir / "config.json").write_text('{"data": {"format": []}}')
    assert "logged" in check(write_report(workdir).read_text()).text
    (workdir / "config.json").unlink()
    assert "no config.json" in check(write_report(workdir).read_text()).text


def test_halted_run_and_weights_and_labels(tmp_path):
    rows = [
        {
            "step": step,
            "split": split,
            "loss": 3.0,
            "next_token": 2.0,
            "grad_norm": 1.0,
            "learning_rate": 0.1,
            "weight/next_token": 1.0,
            "weight/symbolic": step / 10,
            "symbolic": 2.5,
            "symbolic_accuracy": 0.25,
            "participation_0": 3.0,
        }
        for step in range(1, 6)
        for split in ("train", "valid")
    ]
    rows.append({"step": 6, "split": "stop", "reason": "step 6: loss term symbolic is not finite"})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = check(write_report(tmp_path).read_text())
    assert "loss term symbolic is not finite" in reader.text
    assert "Weight of each auxiliary loss" in reader.text
    assert "Accuracy of the heads" in reader.text
    assert "Participation ratio" in reader.text


def test_text_is_escaped(finished):
    log = read_log(finished)
    page = compose(log, {}, [Sample("</pre><script>alert(1)</script>", "<b>")])
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_curves_draws_the_data():
    """The path in the SVG is the scaled data."""
    values = [1.0, 3.0, 2.0]
    text = figures.svg(figures.curves({"a": ([0, 1, 2], values)}, ylabel="y"), "one")
    root = ElementTree.fromstring(text)
    blue = figures.COLOURS[figures.SERIES[0]][0]
    line = next(p for p in root.iter("path") if blue in p.get("style", ""))
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", line.get("d")), float)
    assert len(points) == 3
    x, y = points.T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], rel=1e-3)
    # SVG's y grows downwards.
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(0.5, abs=1e-3)


def test_pictures_have_distinct_ids():
    texts = [figures.svg(figures.curves({"a": ([0, 1], [1, 2])}, ylabel="y"), n) for n in "ab"]
    ids = [set(re.findall(r'id="([^"]*)"', text)) for text in texts]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_leading_component():
    time = np.linspace(-1, 1, 9)
    direction = np.array([3.0, 4.0]) / 5
    moving = time[:, None] * direction + np.array([7.0, -7.0])
    still = np.ones((9, 2))
    rows = leading_component(np.stack([moving, still], 1))
    assert rows.shape == (9, 2)
    np.testing.assert_allclose(np.abs(rows[:, 0]), np.abs(time), atol=1e-12)
    np.testing.assert_allclose(rows[:, 1], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("plan", (6, 4), 1),
        ("heads", (6, 3, 3), 1),
        ("causal_mask", (6, 3, 3), 2),
        ("relations", (6, 3, 2, 5), 1),
        ("log2_loss", (5,), 1),
        ("other_length", (3, 4), 0),
        ("scalar", (), 0),
    ],
)
def test_pictures_of_arrays_over_time(name, shape, count):
    drawn = list(pictures(name, np.random.default_rng(0).normal(size=shape), list("abcdef")))
    assert len(drawn) == count
    for suffix, figure, _ in drawn:
        assert "<svg" in figures.svg(figure, name + suffix)


def test_non_finite_arrays_are_skipped():
    assert not list(pictures("plan", np.full((3, 2), np.nan), list("abc")))


def test_sentence_is_complete_with_visible_labels():
    text = b"Short one. We the people are here to see this text through,\ttoday. And more."
    document = Document("a", np.frombuffer(text, np.uint8))
    corpus = Corpus("c", (document,), (document,), (), tokenizer=ByteTokenizer(), split="")
    tokens, labels = sentence(corpus)
    assert bytes(tokens.astype(np.uint8)) == text[11:66]
    assert "".join(labels[:6]) == "We␣the"
    assert "⇥" in labels


def test_command_line(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    assert main([f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out.strip() == str(workdir / "report.html")
    assert main(["--workdir=nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: --workdir=nowhere")
