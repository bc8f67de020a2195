"""lm-eval's tasks, offline: scores equal those of a plain loop over the same questions."""

from __future__ import annotations

import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import convert
from jaxmodels.data import ByteTokenizer, tokenizer_from_json
from jaxmodels.errors import UserError
from tests.convert.common import GOLDENS
from tests.data.tokenizers.worlds import family
from tests.eval.tiny_bytes import Toy
from tests.goldens import lm_eval_scores as golden

pytest.importorskip("lm_eval", reason="lm-eval (the extra lm_eval) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and the packages it brings

from eval.lm_eval.__main__ import main  # noqa: E402
from eval.lm_eval.adapter import Adapter, sampling_of  # noqa: E402

QUESTIONS = [
    {"question": "The sky is", "choices": ["blue", "green as grass", "a"], "answer": 0},
    {"question": "Two and two ", "choices": ["are four", "is"], "answer": 1},
    {"question": "Was? é", "choices": ["x", "yy", "zzz"], "answer": 2},
]
CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1.0}}
"""
ROLLING = """\
task: tiny_rolling
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: bits_per_byte}}, {{metric: byte_perplexity}}]
metadata: {{version: 1.0}}
"""
UNTIL = """\
task: tiny_until
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["e"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def model():
    return Toy(sharpness=6.0)


def logprobs_of(model, ids):
    """Log-probabilities of ids[1:], and whether each is the most likely, token by token."""
    step, state, found = jax.jit(lambda s, t: model.step(s, t)), model.initial_state(1), []
    for token, following in itertools.pairwise(ids):
        state, out = step(state, jnp.full((1,), token, jnp.int32))
        row = jax.nn.log_softmax(out.logits[0])
        found.append((float(row[following]), int(jnp.argmax(row)) == following))
    return found


def asked(*arguments):
    return [types.SimpleNamespace(args=x) for x in arguments]


def test_spaces_at_the_end_of_a_context_go_to_the_continuation(model):
    adapter = Adapter(model, ByteTokenizer(), batch_size=2)
    requests = [("Two and two ", "are"), ("Two and two", " are"), ("Hi", " x"), ("", "ab")]
    first, second, _, empty = adapter.loglikelihood(asked(*requests), disable_tqdm=True)
    assert first == second
    for (total, greedy), ids, count in [
        (first, b"Two and two are", 4),
        (empty, b"\nab", 2),
    ]:
        found = logprobs_of(model, list(ids))[-count:]
        assert total == pytest.approx(sum(x for x, _ in found), abs=1e-4)
        assert greedy == all(x for _, x in found)


def test_ids_are_cut_where_those_of_the_context_end():
    """A merge over the border: the context keeps its ids, and the rest of both together follows."""
    tokenizer = tokenizer_from_json(family("byte_level").to_str())
    model = Toy(vocab=tokenizer.vocab_size)
    adapter = Adapter(model, tokenizer)
    context, continuation = "the la", "zy dog"
    whole, start = tokenizer.encode(context + continuation), tokenizer.encode(context)
    assert whole[: len(start)].tolist() != start.tolist()  # or this test shows nothing
    ids = [*start, *whole[len(start) :]]
    found = logprobs_of(model, ids)[len(start) - 1 :]
    ((total, _),) = adapter.loglikelihood(asked((context, continuation)), disable_tqdm=True)
    assert total == pytest.approx(sum(x for x, _ in found), abs=1e-4)


def test_rolling_reads_the_whole_text_after_the_prefix(model):
    text = "the people of this nation " * 30  # more than two segments
    (total,) = Adapter(model, ByteTokenizer()).loglikelihood_rolling(asked((text,)))
    found = logprobs_of(model, [10, *text.encode()])
    assert total == pytest.approx(sum(x for x, _ in found), rel=1e-5)
    ended = Adapter(model, ByteTokenizer(), end_tokens=(0,))
    assert ended.prefix_token_id == ended.eot_token_id == 0


def test_answers_end_where_the_task_says(model):
    adapter = Adapter(model, ByteTokenizer(), batch_size=2)
    settings = {"until": ["e", "q"], "max_gen_toks": 12, "do_sample": False}
    answers = adapter.generate_until(
        asked(("The", settings), ("A longer one", settings), ("", settings | {"until": []}))
    )
    for prompt, answer in zip((b"The", b"A longer one", b"\n"), answers, strict=True):
        ids = list(prompt)
        state = model.initial_state(1)
        for token in ids:
            state, out = model.step(state, jnp.full((1,), token, jnp.int32))
        drawn = []
        for _ in range(12):
            drawn.append(int(jnp.argmax(out.logits[0])))
            state, out = model.step(state, jnp.full((1,), drawn[-1], jnp.int32))
        text = bytes(drawn).decode(errors="replace")
        if prompt != b"\n":
            text = text.split("e")[0].split("q")[0]
        assert answer == text


def test_generation_settings():
    assert sampling_of({"until": "\n"}) == {"stop": ["\n"], "max_tokens": 256, "temperature": 0.0}
    given = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 3}
    expected = {"stop": [], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9}
    assert sampling_of(given) == expected
    with pytest.raises(UserError, match=r"generation_kwargs\.beams: not supported"):
        sampling_of({"beams": 3})


@pytest.fixture
def tasks(tmp_path):
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    paths = []
    for name, text in (("choice", CHOICE), ("rolling", ROLLING), ("until", UNTIL)):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(text.format(data=data))
    return list(map(str, paths))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")


def test_the_command_on_files_of_tasks(finished, tasks, tmp_path, capsys):
    from eval.run import load_trained

    out = tmp_path / "scores.json"
    at = f"--workdir={finished}"
    assert main([at, "--tasks", *tasks, "--batch-size", "4", "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("tiny_choice", "tiny_rolling", "tiny_until"))
    scores = json.loads(out.read_text())
    model = load_trained(finished)[0].model
    right, normed, read = 0, 0, 0
    for row in QUESTIONS:
        context = row["question"].rstrip()
        spaces = row["question"][len(context) :]
        sums = []
        for choice in row["choices"]:
            # lm-eval puts a space between question and answer
            text = f"{context}{spaces} {choice}".encode()
            found = logprobs_of(model, list(text))
            sums.append(sum(x for x, _ in found[len(context.encode()) - 1 :]))
            read += len(text) - len(context.encode()) - 1
        read += len(context.encode())
        right += int(np.argmax(sums)) == row["answer"]
        sizes = [len(choice) for choice in row["choices"]]
        normed += int(np.argmax(np.divide(sums, sizes))) == row["answer"]
    results = scores["results"]
    assert results["tiny_choice"]["acc,none"] == pytest.approx(right / 3)
    assert results["tiny_choice"]["acc_norm,none"] == pytest.approx(normed / 3)
    nats = [logprobs_of(model, [10, *row["question"].encode()]) for row in QUESTIONS]
    size = sum(len(row["question"].encode()) for row in QUESTIONS)
    bits = -sum(x for row in nats for x, _ in row) / size / np.log(2)
    assert results["tiny_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)
    assert "exact_match,none" in results["tiny_until"]
    # Each question once, however many choices; one prefix token for all the texts that roll.
    rolled = 1 + sum(len(row["question"].encode()) - 1 for row in QUESTIONS)
    assert scores["tokens_read_for_scores"] == read + rolled
    assert {"command", "seed", "device", "seconds", "versions_of", "step"} <= scores.keys()
    assert scores["versions_of"]["lm_eval"]


def test_mistakes_get_one_line(finished, tasks, tmp_path, capsys):
    at = f"--workdir={finished}"
    (tmp_path / "empty.yaml").write_text("x: 1\n")
    for name, text in (
        ("torn", "task: torn\n  x: [1\n"),
        ("absent", CHOICE.format(data=tmp_path / "absent.jsonl").replace("tiny", "absent")),
        ("field", CHOICE.format(data=tmp_path / "questions.jsonl").replace("question}", "no}")),
        ("twice", CHOICE.format(data=tmp_path / "questions.jsonl")),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(text)
    (tmp_path / "twice" / "b.yaml").write_text((tmp_path / "twice" / "a.yaml").read_text())
    for arguments, says in [
        ([at, "--tasks", str(tmp_path / "no.yaml")], "no such file"),
        ([at, "--tasks", str(tmp_path / "empty.yaml")], "no line `task: NAME`"),
        ([at, "--tasks", str(tmp_path / "torn" / "a.yaml")], "cannot read this file as a task"),
        ([at, "--tasks", str(tmp_path / "absent" / "a.yaml")], "cannot run them (FileNotFound"),
        ([at, "--tasks", str(tmp_path / "field" / "a.yaml")], "cannot run them (Undefined"),
        ([at, "--tasks", *(str(tmp_path / "twice" / f"{x}.yaml") for x in "ab")], "rename one"),
        ([at, "--tasks", tasks[0], "--seed", "-1"], "--seed=-1: give 0 to"),
        ([at, "--tasks", tasks[0], "--limit", "0"], "--limit=0: give 1 or more"),
        ([at, "--tasks", tasks[0], "--chat"], "--chat: no chat template in"),
    ]:
        assert main(arguments) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert says in told[-1]


def test_scores_are_those_of_the_backend_of_transformers():
    scores = json.loads((GOLDENS / "lm_eval_scores.json").read_text())
    tokenizer = tokenizer_from_json(golden.tokenizer().to_str())
    adapter = Adapter(convert.load(GOLDENS / "mamba"), tokenizer, end_tokens=(0,), batch_size=4)
    found = adapter.loglikelihood(golden.requests(golden.PAIRS), disable_tqdm=True)
    for ours, theirs in zip(found, scores["loglikelihood"], strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-4) and ours[1] == theirs[1]
    rolled = adapter.loglikelihood_rolling(golden.requests([(text,) for text in golden.TEXTS]))
    assert rolled == pytest.approx(scores["rolling"], abs=1e-3)  # of up to 166 nats
    assert adapter.generate_until(golden.requests(golden.QUESTIONS)) == scores["generate_until"]
