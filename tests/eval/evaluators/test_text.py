"""Evaluation on text: weighted means, independence of the batch size, one-line errors."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.__main__ import main
from eval.evaluators import text as evaluator
from eval.evaluators.text import evaluate
from jaxmodels.data import Document, WordTokenizer
from jaxmodels.data.text.corpus import Record, to_document
from jaxmodels.errors import UserError
from jaxmodels.models.contract import label_terms
from tests.eval.tiny_bytes import Toy


def documents(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [Document(str(n), rng.integers(97, 123, n).astype(np.uint8)) for n in lengths]


def by_hand(model, docs):
    """Return nats, hits and count of all targets, one document at a time."""
    nats, hits, count = 0.0, 0, 0
    for doc in docs:
        tokens = jnp.asarray(doc.tokens.astype(np.int32))[None]
        _, out = model(model.initial_state(1), tokens[:, :-1])
        log_p = np.asarray(jax.nn.log_softmax(out.logits[0], -1), np.float64)
        targets = doc.tokens[1:]
        nats -= log_p[np.arange(len(targets)), targets].sum()
        hits += (log_p.argmax(-1) == targets).sum()
        count += len(targets)
    return nats, hits, count


@pytest.fixture(scope="module")
def model():
    return Toy()


@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 7), (3, 16), (8, 64)])
def test_whole_documents_match_one_at_a_time(model, batch_size, seq_len):
    docs = documents(40, 5, 1, 23)  # the document of one byte has no target
    nats, hits, count = by_hand(model, [doc for doc in docs if len(doc) > 1])
    scores = evaluate(model, docs, batch_size=batch_size, seq_len=seq_len, whole_documents=True)
    assert scores.counts["next_token"] == count == scores.num_bytes
    # float32 logits, summed in another order.
    assert scores.means["next_token"] == pytest.approx(nats / count, rel=1e-5)
    assert scores.means["accuracy"] == pytest.approx(hits / count)
    assert scores.means["bits_per_byte"] == pytest.approx(nats / count / math.log(2), rel=1e-5)
    assert scores.means["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)


def test_state_is_carried_between_batches(model):
    doc = documents(200)
    carried = evaluate(model, doc, batch_size=1, seq_len=10)
    whole = evaluate(model, doc, batch_size=1, seq_len=200)
    nats, _, count = by_hand(model, doc)
    assert carried.means["next_token"] == pytest.approx(whole.means["next_token"], rel=1e-5)
    assert carried.means["next_token"] == pytest.approx(nats / count, rel=1e-5)

    class Forgetful(Toy):
        def loss_sums(self, state, batch, key=None, progress=None):
            return super().loss_sums(self.initial_state(len(batch["inputs"])), batch, key)

    forgetful = evaluate(Forgetful(), doc, batch_size=1, seq_len=10)
    assert abs(forgetful.means["next_token"] - nats / count) > 1e-3


def test_terms_without_targets_are_left_out(model):
    class Labelled(Toy):
        @property
        def terms(self):
            return *super().terms, *label_terms("symbolic", lambda batch: None, weight=0.1)

    scores = evaluate(Labelled(), documents(30))
    assert "symbolic" not in scores.means
    assert scores.counts["symbolic"] == 0


def test_bits_per_byte_of_words_counts_bytes_of_text():
    text = b"the people shall work and the people of this nation shall work for peace"
    tokenizer = WordTokenizer.fit([text])
    document = to_document(Record("words", text), tokenizer)
    scores = evaluate(Toy(vocab=tokenizer.vocab_size), [document])
    targets = len(document) - 1
    assert scores.counts["next_token"] == targets
    assert scores.num_bytes == len(text) - len("the")
    nats = scores.means["next_token"] * targets
    assert scores.means["bits_per_byte"] == pytest.approx(nats / math.log(2) / scores.num_bytes)
    assert scores.means["perplexity"] == pytest.approx(math.exp(scores.means["next_token"]))


def test_nothing_to_evaluate(model):
    with pytest.raises(UserError, match="shorter than 2 tokens"):
        evaluate(model, documents(1, 1))


def test_command_line_writes_json_report_and_table(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    assert main([f"--workdir={workdir}"]) == 0
    result = json.loads((workdir / "eval.json").read_text())
    assert set(result["splits"]) == {"valid", "test"} == set(result["baselines"])
    for scores in result["splits"].values():
        assert 0 < scores["bits_per_byte"] < 20
        assert scores["abstraction_norm_0"] == 2.0
        assert scores["perplexity"] == pytest.approx(2 ** scores["bits_per_byte"], rel=1e-6)
    assert result["command"] == f"python -m eval --workdir={workdir}"
    assert {"jax", "flax", "numpy", "python", "jaxlib"} == set(result["versions"])
    assert result["seconds"] > 0
    assert "cpu" in result["device"]
    assert result["step"] in (6, 12)
    printed = capsys.readouterr().out
    assert "bits_per_byte" in printed
    assert "byte-Markov, order-2" in printed
    assert f"{result['splits']['valid']['bits_per_byte']:.4f}" in printed
    assert "<svg" in (workdir / "report.html").read_text()


def test_an_empty_split_is_left_out_and_numbers_are_shown_first(finished, capsys, monkeypatch):
    load, written = evaluator.load_run, []

    def without_test(*arguments, **options):
        run = load(*arguments, **options)
        return dataclasses.replace(run, corpus=dataclasses.replace(run.corpus, test=()))

    def refuse(path, result):
        written.append(result)
        raise UserError(f"{path}: cannot be written")

    monkeypatch.setattr(evaluator, "load_run", without_test)
    monkeypatch.setattr(evaluator, "write_json", refuse)
    assert main([f"--workdir={finished}", "--max-bytes=300"]) == 2
    out, err = capsys.readouterr()
    assert "bits_per_byte" in out and "test is left out: none of its documents" in out
    assert err == f"error: {finished}/eval.json: cannot be written\n"
    assert list(written[0]["splits"]) == ["valid"]
    assert main([f"--workdir={finished}", "--split", "test"]) == 2
    assert "nothing to evaluate: test is left out" in capsys.readouterr().err


def test_one_split_other_text_and_little_of_it(finished, texts, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    other = str(texts / "0*.txt")
    arguments = ["--split", "test", "--data", other, "--max-bytes=300", "--checkpoint=last"]
    assert main([f"--workdir={workdir}", *arguments]) == 0
    assert not (workdir / "eval.json").exists()  # not a score on the run's own text
    result = json.loads((workdir / "eval_other.json").read_text())
    assert list(result["splits"]) == ["test"]
    assert result["splits"]["test"]["bytes"] <= 300
    assert result["step"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=nowhere"], "no such folder"),
        (["--workdir={empty}"], "holds no run"),
        (["--workdir={stopped}"], "no checkpoint"),
        (["--workdir={finished}", "--batch-size=0"], "--batch-size=0"),
        (["--workdir={finished}", "--max-bytes=1"], "--max-bytes=1"),
        (["--workdir={finished}", "--data", "missing.txt"], "missing.txt"),
        (["--workdir={finished}", "--checkpoint=7"], "7"),
        (["--workdir={finished}", "--checkpoint=newest"], "newest"),
    ],
)
def test_one_line_errors(finished, tmp_path, capsys, arguments, message):
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    shutil.copy(finished / "config.json", stopped)
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "stopped": stopped, "finished": finished}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
