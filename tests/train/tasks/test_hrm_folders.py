"""Runs on built folders: of our own builder, and of HRM's kind with puzzles that have vectors."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from eval.__main__ import main as evaluate
from eval.evaluators.infer import Answerer, HRLMInference
from eval.run import load_trained
from jaxmodels.data.build import Options, build
from jaxmodels.data.pairs.hrm_format import Arrays, read_built
from jaxmodels.data.tokenizers.grid import SUDOKU4, GridTokenizer
from jaxmodels.data.tokenizers.special import UNK
from jaxmodels.errors import UserError
from tests.data.pairs.test_build import L33
from tests.train.tasks.test_answers import SIZES, config_of, one_device, text_config
from train.tasks import open_task
from train.tasks.answers import pairs_of, read_other

PUZZLES, CELLS = 3, 4


def write_shifts(folder):
    """HRM's files; puzzle k adds k to each number, modulo 3, and has a row that ends early."""
    digits = np.stack(np.meshgrid(*[np.arange(3)] * CELLS), -1).reshape(-1, CELLS)
    for split, rows in (("train", digits[::2]), ("test", digits[1::2])):
        inputs = np.concatenate([rows + 1] * PUZZLES).astype(np.uint8)
        shift = np.arange(PUZZLES).repeat(len(rows))
        labels = ((inputs - 1 + shift[:, None]) % 3 + 1).astype(np.uint8)
        inputs[::5, -1] = labels[::5, -1] = 0
        ends = np.arange(PUZZLES + 1) * len(rows)
        arrays = Arrays(inputs, labels, np.arange(PUZZLES), ends, np.arange(PUZZLES + 1))
        (folder / split).mkdir(parents=True)
        for field, values in arrays._asdict().items():
            np.save(folder / split / f"all__{field}.npy", values)
        metadata = L33 | {"seq_len": CELLS, "vocab_size": 4, "total_groups": PUZZLES}
        metadata |= {"num_puzzle_identifiers": PUZZLES, "ignore_label_id": 0, "sets": ["all"]}
        metadata |= {"mean_puzzle_examples": len(rows)}
        (folder / split / "dataset.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def shifts(tmp_path_factory):
    return write_shifts(tmp_path_factory.mktemp("shifts") / "shifts-aug-0")


def shift_config(folder, **changes):
    data = {"format": "built", "paths": (str(folder),), "tasks": (), "augment": False}
    config = config_of(seq_len=CELLS, batch_size=16, data=data | changes.pop("data", {}))
    config.update({"steps": 300, "eval_every": 300, "checkpoint_every": 300})
    config.optimizer.update({"learning_rate": 1e-2, "sign_rate": 0.05})
    config.model_config.update({"halt_max_steps": 1, "puzzle_ids": PUZZLES} | changes)
    return config


def test_puzzle_vectors_learn_the_puzzle(shifts, tmp_path):
    config = shift_config(shifts)
    assert one_device(config, tmp_path / "run").status == "finished"
    assert evaluate([f"--workdir={tmp_path / 'run'}"]) == 0
    scores = json.loads((tmp_path / "run" / "answers.json").read_text())["splits"]["unseen"]
    assert scores["exact"] > 0.9 and scores["open_cells"] > 0.9
    # Without the puzzle's identity at most a third of them can be right.
    trained, tokenizer = load_trained(tmp_path / "run")
    pairs = [pair for pair in pairs_of(config).test if "_" not in pair.answer]
    answerer = Answerer(trained.model, tokenizer, batch_size=16)
    same = answerer.answer([pair.question for pair in pairs])
    assert np.mean([a == p.answer for a, p in zip(same, pairs, strict=True)]) < 0.4
    right = answerer.answer([pair.question for pair in pairs], [pair.identifier for pair in pairs])
    assert np.mean([a == p.answer for a, p in zip(right, pairs, strict=True)]) > 0.9
    with pytest.raises(UserError, match="puzzle: must be 0 to 2"):
        answerer.answer(["123."], [PUZZLES])
    with pytest.raises(UserError, match="single ACT step"):
        Answerer(trained.model, tokenizer, max_steps=2)
    assert (np.asarray(trained.model.puzzle[...]) != 0).all()


def test_positions_outside_the_grid_have_no_label(shifts):
    data = open_task(shift_config(shifts))
    batch = next(iter(data.train))
    np.testing.assert_array_equal(batch["weights"], batch["inputs"] != 0)
    assert set(batch["identifiers"].tolist()) == set(range(PUZZLES))
    assert {len(pair.question) for pair in data.corpus.test} == {CELLS}
    assert any("_" in pair.answer for pair in data.corpus.test)
    # Difficulty: cells in which the answer differs. Puzzle 0 changes nothing.
    assert {p.combination for p in data.corpus.train if not p.identifier} == {("0",)}
    others = [dataclasses.replace(p, identifier=0) for p in data.corpus.train]
    assert dataclasses.replace(data.corpus, train=tuple(others)).fingerprint() != data.fingerprint


@pytest.mark.parametrize("mode", ["nar", "prefix_ar"])
def test_texts_train_as_built(mode, tmp_path):
    folder = tmp_path / "d"
    options = Options(mode=mode, seq_len=64, tokenizer="hybrid", max_tokens=300, count=60)
    build(["translation"], folder, options)
    config = text_config(format="built", paths=(str(folder),))
    config.update({"seq_len": 64, "batch_size": 4})
    if mode == "prefix_ar":
        config.model = "hrlm/prefix_ar"
        own = {n: x for n, x in SIZES.items() if n not in ("halt_max_steps", "q_continue")}
        config.model_config = type(config)(own)
    data = open_task(config)
    splits, tokenizer = read_built(folder)
    assert data.corpus.tokenizer == tokenizer
    assert data.config.model_config.vocab_size == tokenizer.vocab_size
    assert len(data.corpus.valid + data.corpus.test) == len(splits["test"].rows().inputs)
    stream, rows = iter(data.train), splits["train"].rows()
    batches = [next(stream) for _ in range(math.ceil(data.steps_per_epoch))]
    for name in ("inputs", "targets", "weights"):
        found = np.concatenate([batch[name] for batch in batches])
        assert {row.tobytes() for row in found} == {row.tobytes() for row in getattr(rows, name)}


@pytest.mark.parametrize("tokenizer", ["seed_char", "hybrid"])
def test_unknown_characters_stay_unknown(tokenizer, tmp_path):
    lines = [f"say “{i}” once…\t「{i}」\n" for i in range(40)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    folder = tmp_path / "d"
    options = Options(seq_len=40, tokenizer=tokenizer, max_unused=0.5)
    assert "unknown to the tokenizer: " in build([str(tmp_path / "a.tsv")], folder, options)
    config = text_config(format="built", paths=(str(folder),), tasks=(), max_unused=0.5)
    config.update({"seq_len": 40, "batch_size": 4})
    stored = read_built(folder)[0]["train"].rows().inputs
    batch = next(iter(open_task(config).train))["inputs"]
    assert (batch == UNK).any()
    assert {row.tobytes() for row in batch} <= {row.tobytes() for row in stored}


def test_named_puzzle_has_symbols_and_symmetries(tmp_path):
    rng = np.random.default_rng(0)
    base = np.array([1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1])
    for split in ("train", "test"):
        labels = np.stack([rng.permutation(4)[base - 1] + 2 for _ in range(4)])
        inputs = np.where(rng.random(labels.shape) < 0.3, 1, labels)
        arrays = Arrays(inputs, labels, np.zeros(4, int), np.arange(5), np.arange(5))
        (tmp_path / "d" / split).mkdir(parents=True)
        for field, values in arrays._asdict().items():
            np.save(tmp_path / "d" / split / f"all__{field}.npy", values)
        metadata = L33 | {"seq_len": 16, "vocab_size": 6, "total_groups": 4, "sets": ["all"]}
        metadata |= {"num_puzzle_identifiers": 1, "mean_puzzle_examples": 1.0}
        (tmp_path / "d" / split / "dataset.json").write_text(json.dumps(metadata))
    data = open_task(config_of(data={"format": "built", "paths": (str(tmp_path / "d"),)}))
    assert set("".join(pair.answer for pair in data.corpus.train)) == set("1234")
    stream = iter(data.train)
    variants = {row.tobytes() for _ in range(4) for row in next(stream)["inputs"]}
    assert len(variants) > 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"puzzle_ids": 2}, "puzzle_ids: 2 vectors, but the data have 3 puzzles; set it to 3"),
        (
            {"data": {"paths": ()}},
            "name exactly one existing directory \\(--data\\), got none",
        ),
        ({"data": {"augment": True}}, "only known puzzles are augmented"),
        ({"data": {"tasks": ("sudoku4",)}}, "vocab_size is 4, but the puzzle .* has 6"),
        (
            {"seq_len": 5},
            "train: rows have 4 tokens, but the model reads 5; set --config.seq_len=4",
        ),
    ],
)
def test_mismatches_are_rejected(shifts, changes, words):
    with pytest.raises(UserError, match=words):
        open_task(shift_config(shifts, **changes))


def test_text_model_needs_a_tokenizer(shifts, tmp_path):
    config = text_config(format="built", paths=(str(shifts),), tasks=())
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        open_task(config)
    build(["seed_translation"], tmp_path / "d", Options(mode="prefix_ar", seq_len=64))
    config.data.paths, config.seq_len = (str(tmp_path / "d"),), 64
    with pytest.raises(UserError, match="not what a model in mode 'nar' reads"):
        open_task(config)
    shutil.rmtree(tmp_path / "d" / "test")
    with pytest.raises(UserError, match="has only train; expected train and test"):
        open_task(config)


def test_a_run_is_asked_behind_the_prefix_that_its_folder_was_built_with(tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_text("".join(f"is {i} odd\tyes\n" for i in range(20)))
    folder, prefix = tmp_path / "d", "\n\nQ: "
    build([str(tmp_path / "a.tsv")], folder, Options(seq_len=40, question_prefix=prefix))
    config = text_config(format="built", paths=(str(folder),), tasks=(), tokenizer="answer_char")
    config.update({"seq_len": 40, "batch_size": 4})
    task = open_task(config)
    assert task.config.data.question_prefix == prefix  # and so in the run's config.json
    asked = HRLMInference.__new__(HRLMInference)
    asked.config = task.config
    asked.answerer = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(mode="nar")))
    question = task.corpus.train[0].question
    assert question.startswith(prefix)
    assert asked._as_trained([question.removeprefix(prefix)]) == [question]
    (tmp_path / "b.tsv").write_text("is 3 odd\tyes\n")
    pairs, _ = read_other(task.config, [str(tmp_path / "b.tsv")], task.corpus.tokenizer)
    assert pairs[0].question == f"{prefix}is 3 odd"
    config.data.question_prefix = "A: "
    with pytest.raises(UserError, match=r"was built with .*; leave it out"):
        open_task(config)


def test_a_grid_of_another_size_is_named_by_its_cells():
    model = SimpleNamespace(config=SimpleNamespace(mode="grid", seq_len=16, puzzle_ids=0))
    asked = Answerer.__new__(Answerer)
    asked.model, asked.tokenizer = model, GridTokenizer(SUDOKU4)
    with pytest.raises(UserError, match=r"^'1234': has 4 cells, this model reads grids of 16"):
        asked._rows(["1234"], None)
