"""Accuracy on arithmetic: what counts as right, per kind; a run from training to the tables."""

import contextlib
import io
import json
import math

import jax
import numpy as np
import pytest

import configs.rnk.arithmetic
from eval.__main__ import main as evaluate
from eval.chat.__main__ import main as chat
from eval.evaluators.arithmetic import arithmetic_scores
from eval.evaluators.chat import evaluate as evaluate_rows
from eval.evaluators.chat import rows_of
from eval.report.chat_page import arithmetic_table
from eval.report.document import to_markdown
from eval.run import load_trained
from eval.sweep.plan import TOLERANCE, make_plan
from eval.sweep.results import run_result
from eval.sweep.runner import Run
from eval.sweep.sections import conversations
from eval.sweep.spec import read_sweep
from jaxmodels.data.chat.exchange import Exchange
from train.config import complete_config
from train.loop import run
from train.tasks import load_corpus

TINY = {"width": 16, "hidden_size": 16, "num_layers": 1, "plan_layers": 1, "plan_steps": 1}
PATH = "configs/rnk/arithmetic.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two steps of RNK on BPE, and their evaluation."""
    workdir = tmp_path_factory.mktemp("sums") / "bpe"
    data = {"format": "chat", "corpora": ("arithmetic",), "carry_state": False, "prefetch": 0}
    data |= {"examples": 120, "digits": 2, "valid_fraction": 0.2, "test_fraction": 0.2}
    data |= {"tokenizer": "bpe", "max_tokens": 300, "eval_tokens": 0}
    fields = {"model": "rnk", "model_config": TINY, "steps": 2, "batch_size": 4, "seq_len": 40}
    fields |= {"eval_every": 2, "checkpoint_every": 2, "log_every": 1, "data": data}
    config = complete_config(fields)
    assert run(config, workdir, quiet=True, devices=jax.devices()[:1]).status == "finished"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert evaluate([f"--workdir={workdir}", "--replies=1"]) == 0
    assert "Arithmetic: exactly right" in printed.getvalue()
    return workdir


def test_scores_count_each_question_once_by_kind():
    prompts = ["1 + 2", "1 + 2", "10 + 2", "3 + 99", "5 - 7", "Hello"]
    found = [Exchange((p,), "x", "arithmetic" if p != "Hello" else "talk") for p in prompts]
    scores = arithmetic_scores(found, np.array([True, True, False, True, False, True]))
    assert scores == {
        "all": {"questions": 4, "exact": 0.5},
        "+": {
            "all": {"questions": 3, "exact": 2 / 3},
            "1": {"questions": 1, "exact": 1.0},
            "2": {"questions": 2, "exact": 0.5},
        },
        "-": {"all": {"questions": 1, "exact": 0.0}, "1": {"questions": 1, "exact": 0.0}},
    }
    assert arithmetic_scores(found[-1:], np.array([True])) is None
    named = Exchange(("How much is 1 + 2?",), "3", "arithmetic")  # of a file arithmetic.jsonl
    assert arithmetic_scores([named], np.array([True])) is None
    text = to_markdown(arithmetic_table({"splits": {"valid": {}, "test": {"arithmetic": scores}}}))
    assert "| a + b | all | 66.7% of 3 |" in text and "| a + b | 2 | 50.0% of 2 |" in text
    assert arithmetic_table({"splits": {"test": {}}}) == []


def test_exact_is_what_greedy_decoding_writes(finished):
    """Write each answer token by token, from the prompt alone."""
    trained, tokenizer = load_trained(finished, "last")
    corpus = load_corpus(trained.config)
    # A model of two steps is never right: take as answers what it writes, and change some of them.
    exchanges = list({x.turns: x for x in corpus.test}.values())[:6]
    rows = rows_of(trained.config, exchanges, tokenizer)
    begins = rows.weights.argmax(1)
    written = rows.inputs.copy()
    for row, begin in enumerate(begins):
        written[row, begin + 1 :] = tokenizer.vocab_size - 1
    targets = rows.targets.copy()
    read = jax.jit(lambda x: trained.model(trained.model.initial_state(6), x)[1].logits.argmax(-1))
    for at in range(int(rows.weights.sum(1).max())):
        best = np.asarray(read(written))
        for row, begin in enumerate(begins):
            targets[row, begin + at] = best[row, begin + at]
            if begin + at + 1 < written.shape[1]:
                written[row, begin + at + 1] = best[row, begin + at]
    last = (rows.weights.sum(1) - 1).astype(int)
    for row in (1, 4):  # of one the last token is wrong, of the other the first
        targets[row, begins[row] + (last[row] if row == 1 else 0)] ^= 1
    rows = rows._replace(inputs=written, targets=targets)
    scores = evaluate_rows(trained.model, rows, exchanges=exchanges)
    assert scores["arithmetic"]["all"] == {"questions": 6, "exact": 4 / 6}


def test_a_run_reports_arithmetic_and_does_not_talk(finished, capsys):
    result = json.loads((finished / "chat.json").read_text())
    corpus = load_corpus(load_trained(finished)[0].config)
    for name, scores in result["splits"].items():
        held = getattr(corpus, name)
        assert scores["arithmetic"]["all"]["questions"] == len({x.turns for x in held})
        assert scores["arithmetic"].keys() == {"all", "+", "-"}
        assert len(held) < scores["targets"] < sum(len(x.response) + 1 for x in held)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    (logged,) = (row for row in rows if row.get("split") == "valid")
    valid = result["splits"]["valid"]
    assert valid["bits_per_byte"] == pytest.approx(logged["bits_per_byte"], rel=1e-4)
    nats_per_byte = logged["next_token"] * valid["targets"]
    nats_per_byte /= sum(len(x.response) + 1 for x in corpus.valid)
    assert logged["bits_per_byte"] == pytest.approx(nats_per_byte / math.log(2), rel=1e-4)
    assert "Arithmetic: exactly right" in (finished / "report.html").read_text()
    assert result["panel"] == [] and "'bpe'" in result["panel_note"]
    assert chat([f"--workdir={finished}", "--prompt=1 + 1"]) == 2
    error = capsys.readouterr().err
    assert "it was trained with the tokenizer 'bpe'" in error and error.count("\n") == 1


def test_a_sweep_collects_and_tabulates(finished):
    config = load_trained(finished)[0].config
    runs = [run_result(Run("a", s, config, finished, answers=True), {}) for s in (0, 1)]
    runs[1]["conversation"] = json.loads(json.dumps(runs[1]["conversation"]))
    for result, exact in zip(runs, (0.25, 0.75), strict=True):
        result["conversation"]["splits"]["test"]["arithmetic"]["-"]["2"]["exact"] = exact
    text = to_markdown(conversations.section({"entries": {"a": {}}, "runs": runs}))
    assert "Held-out arithmetic" in text and "| a - b | 1 | 2 | all |" in text
    (row,) = (line for line in text.splitlines()[-3:] if line.startswith("| a |"))
    assert row.split(" | ")[2] == "50.0 ± 35.4"


def test_the_sweep_compares_tokenizers_at_equal_parameters():
    plan = make_plan(read_sweep(PATH))
    assert len(plan.seeds) == 3 and plan.answers and len(plan.questions) == 4
    tokenizers = {name: entry.config.data.tokenizer for name, entry in plan.entries.items()}
    assert list(tokenizers.values()) == ["byte", "char", "bpe", "byte", "bpe"]
    assert all(abs(plan.difference(entry)) <= TOLERANCE for entry in plan.entries.values())
    assert len(read_sweep(PATH, "rates")["entries"]) == 5 * 4 and read_sweep(PATH, "smoke")
    assert complete_config(configs.rnk.arithmetic.get_config()).data.tokenizer == "byte"
