"""Runs on synthetic tasks: by one config for every left-to-right model, split by seed."""

import json

import jax
import numpy as np
import pytest

import jaxmodels
from eval.__main__ import main as evaluate
from eval.evaluators.synthetic import evaluate as evaluate_model
from jaxmodels.data.synthetic import MAD, TASKS
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from tests.train.toy import create
from train.__main__ import main as train
from train.config import apply_overrides, load_config
from train.loop import run
from train.model import build_model
from train.tasks import open_task
from train.tasks.synthetic import TEST_SEED
from train.tasks.task import check_labels

CONFIG = "configs/synthetic.py"
# Tokens of a row of each task, where 40 do not do.
LENGTHS = {"compression": 41, "relations": 37}
TINY = ["model_config.width=16", "model_config.num_layers=1", "model_config.head_size=8"]
TINY += ["model_config.state_size=4", "batch_size=4", "data.eval_tokens=320"]


def config_of(*changes):
    return load_config(CONFIG, [f"--config.{change}" for change in changes])


def task_config(name, *changes):
    return config_of(f"data.tasks={name}", f"seq_len={LENGTHS.get(name, 40)}", *changes)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_opened_and_split_by_seed(name):
    """Z-13: the six of MAD, arithmetic and the others."""
    config = task_config(name, *TINY)
    task = open_task(config)
    assert task.config.model_config.vocab_size == task.corpus.task.vocab_size
    train_rows = next(iter(task.train))
    valid = list(task.valid)
    assert len(valid) == 2 and all(len(batch["inputs"]) == 4 for batch in valid)
    want = TASKS[name]().batch if name == "relations" else task.corpus.task.batch
    np.testing.assert_array_equal(train_rows["inputs"], want(config.seed, 0, 4)["inputs"])
    seen = {row.tobytes() for row in train_rows["inputs"]}
    assert seen.isdisjoint(row.tobytes() for batch in valid for row in batch["inputs"])
    assert train_rows["weights"].sum() > 0 and train_rows["reset"][:, 0].all()


def reads_text(name):
    """Return whether a model is left-to-right, so that `logits` follow every token."""
    config = jaxmodels.make_config(name)
    return not hasattr(config, "mode")


@pytest.mark.parametrize("model", [name for name in jaxmodels.MODELS if reads_text(name)])
def test_every_left_to_right_model_takes_the_config(model):
    """The shapes of a step on a task of MAD."""
    config = task_config(MAD[1], f"model={model}")
    task = open_task(config)
    batch = next(iter(task.train))

    def sums():
        built = build_model(task.config)
        return built.loss_sums(built.initial_state(32), batch, None)[1]

    assert len(jax.eval_shape(sums)) > 0
    template = jax.eval_shape(lambda: build_model(task.config))
    check_labels(task, traits_of(template).label_fields)


def test_scores_by_hand():
    """Accuracy over answers, and the share of rows without a wrong one."""
    corpus = open_task(task_config("noisy_recall")).corpus
    model = create(vocab_size=32)
    scores = evaluate_model(model, corpus, 300)  # which does not divide the rows
    batch = corpus.batch(TEST_SEED, 0, 1024)
    _, out = model(model.initial_state(1024), batch["inputs"], batch["reset"])
    right, asked = np.argmax(np.asarray(out.logits), -1) == batch["targets"], batch["weights"] > 0
    assert scores["accuracy"] == pytest.approx(right[asked].mean(), rel=1e-5)
    assert scores["whole_rows"] == (right | ~asked).all(1).mean()


def test_a_run_and_its_evaluation(tmp_path, capsys):
    folder = tmp_path / "w"
    more = ["steps=4", "eval_every=2", "checkpoint_every=4", "optimizer.warmup_steps=1"]
    more += ["data.tasks=noisy_recall", "batch_size=8"]  # devices of the tests
    (tmp_path / "toy.py").write_text(
        "from configs import synthetic\ndef get_config():\n    config = synthetic.get_config()\n"
        "    config.update(model='tests.train.toy:create')\n    config.model_config = {}\n"
        "    config.model_config.vocab_size = 32\n    return config\n"
    )
    flags = [f"--config.{change}" for change in more]
    assert train([f"--config={tmp_path}/toy.py", f"--workdir={folder}", *flags]) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row.get("split") == "valid"]
    assert len(valid) == 2 and "accuracy" in valid[-1] and "bits_per_byte" not in valid[-1]
    assert "--data" not in capsys.readouterr().out  # which this config refuses
    assert evaluate([f"--workdir={folder}", "--batch-size=0"]) == 2
    assert "--batch-size=0: give 1 or more" in capsys.readouterr().err
    assert evaluate([f"--workdir={folder}", "--batch-size=256"]) == 0
    result = json.loads((folder / "task.json").read_text())
    assert result["task"] == "noisy_recall" and result["fields"]["noise"] == 0.2
    assert (result["rows"], result["chance"], result["step"]) == (1024, 1 / 8, 4)
    assert 0.0 <= result["scores"]["whole_rows"] <= result["scores"]["accuracy"] < 0.3
    assert "of the answers of 1,024 test rows of noisy_recall" in capsys.readouterr().out
    assert "whole rows" in (folder / "report.html").read_text()
    with pytest.raises(UserError, match="one on a synthetic task; use python -m eval"):
        from eval.run import load_run

        load_run(folder)


def test_relations_with_their_labels():
    """P-15: the labels of the relation task reach PRERNK's losses from the command line."""
    changes = ["model=prernk", "data.labels=relations", "data.label_slots=4", "data.label_roles=3"]
    model = {"symbol_slots": 4, "role_slots": 3, "relation_vocab": 12, "fidelity": "probe"}
    model |= {"symbolic": "cross_entropy", "width": 8, "hidden_size": 8, "relation_size": 4}
    model["abstraction_sizes"] = "8,4"
    changes += [f"model_config.{name}={value}" for name, value in model.items()]
    config = task_config("relations", *changes, "batch_size=2")
    task = open_task(config)
    assert task.label_classes == {"relation_labels": 12}
    built = build_model(task.config)
    check_labels(task, traits_of(built).label_fields)
    built.check_data(task.config.data, config.seq_len, task.label_classes)
    batch = next(iter(task.train))
    assert batch["relation_labels"].shape == (2, 37, 4, 3)
    shapes = jax.eval_shape(lambda model: model.loss_sums(model.initial_state(2), batch), built)[1]
    assert {"symbolic", "fidelity", "fidelity_exact"} <= shapes.keys()
    with pytest.raises(UserError, match=r"relation_vocab=12: .* have 13 classes"):
        built.check_data(task.config.data, config.seq_len, {"relation_labels": 13})
    apply_overrides(config, ["--config.data.label_slots=5"])
    task = open_task(config)
    with pytest.raises(UserError, match="label_slots must be the model's 4, got 5"):
        built.check_data(task.config.data, config.seq_len, task.label_classes)


def test_regression_from_the_command_line(tmp_path):
    """P-11: sums are predicted as numbers, and validation ranks by their squared error."""
    changes = ["model=prernk", "data.tasks=adding", "seq_len=9", "steps=30", "eval_every=30"]
    model = {"objective": "regression", "width": 8, "hidden_size": 16, "relation_size": 4}
    model |= {"symbol_slots": 2, "role_slots": 2, "sparsity": "none", "abstraction_sizes": "16,8"}
    changes += [f"model_config.{name}={value}" for name, value in model.items()]
    changes += ["batch_size=16", "optimizer.warmup_steps=2", "data.eval_tokens=0"]
    config = config_of(*changes, "log_every=1", "optimizer.learning_rate=1e-2")
    result = run(config, tmp_path / "w", quiet=True, devices=jax.devices()[:1])
    assert result.status == "finished" and "next_token" not in result.valid
    rows = [json.loads(x) for x in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
    losses = [row["regression"] for row in rows if row.get("split") == "train"]
    guess = 2 * (10**2 - 1) / 12 / 18**2  # of the mean of the sums
    assert losses[0] > 1.5 * guess > result.valid["regression"] == result.valid["loss"]
    task = open_task(config)
    scores = evaluate_model(build_model(task.config), task.corpus, 512)
    assert "regression" in scores and "whole_rows" not in scores  # it has learned no classes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.tokenizer=byte"], "config.data.tokenizer: rows of numbers need 'ids'"),
        (["data.tasks=mqar,s5"], "config.data.tasks: must name one of mqar,"),
        (["data.tasks=mqat"], "config.data: unknown task 'mqat'; did you mean 'mqar'?"),
        (["data.task_fields.pair=3"], "config.data: mqar has no field 'pair'"),
        (["data.task_fields.pairs=30"], "config.data: MQAR: pairs=30 takes 120 tokens"),
        (["data.labels=relations"], "config.data.labels: task 'mqar' has no relations"),
        (["data.paths=x.txt"], "config.data.paths: rows are generated"),
        (["data.tasks=relations"], "config.data: relations: its rows have 37 tokens"),
        (["model=hrlm/base"], "model 'hrlm/base' does not read 'synthetic'"),
        (["model_config.vocab_size=7"], "config.model_config.vocab_size: 7, but the 'ids'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        open_task(config_of(*changes))
    assert message in str(error.value) and "\n" not in str(error.value)
