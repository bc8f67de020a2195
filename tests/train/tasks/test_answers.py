"""A run that answers questions: trained, killed, measured and asked."""

import io
import json
import shutil
import unicodedata
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from eval.__main__ import main as evaluate
from eval.after_training import after_training
from eval.evaluators.answers import _bins, _split, difficulty
from eval.evaluators.infer import Answerer, Answers, HRLMInference
from eval.predict import main as predict
from eval.run import load_run
from jaxmodels.data.pairs.rows import Pair, lay_out_pairs
from jaxmodels.data.tasks import make_task
from jaxmodels.data.tokenizers.special import SEP
from jaxmodels.errors import UserError
from jaxmodels.models.hrlm import act
from train.config import complete_config
from train.loop import run
from train.optim.build import make_optimizer
from train.optim.sign_sgd import sparse_sign_sgd
from train.optim.weight_decay import decay_factors
from train.tasks import open_task
from train.tasks.answers import pairs_of

SIZES = {"width": 16, "head_size": 8, "high_layers": 1, "low_layers": 1, "mlp_multiple": 8}
SIZES |= {"halt_max_steps": 3, "q_continue": False, "vocab_size": 0}


def config_of(**changes):
    data = {"format": "puzzle", "tasks": ("sudoku4",), "examples": 40, "tokenizer": "grid"}
    data |= {"valid_fraction": 0.2, "test_fraction": 0.2, "augment": True, "prefetch": 0}
    fields = {"model": "hrm", "model_config": SIZES, "steps": 6, "batch_size": 8, "seq_len": 16}
    fields |= {"eval_every": 3, "checkpoint_every": 3, "log_every": 1}
    fields |= {"optimizer": {"schedule": "constant"}}
    data |= changes.pop("data", {})
    return complete_config(fields | changes | {"data": data})


def text_config(**data):
    data = {
        "max_tokens": 900,
        "format": "task",
        "tasks": ("translation",),
        "tokenizer": "hybrid",
    } | data
    data |= {"augment": False}
    return config_of(model="hrlm", seq_len=32, data=data)


def one_device(config, workdir, **more):
    return run(config, workdir, quiet=True, devices=jax.devices()[:1], **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run that was interrupted by nothing."""
    workdir = tmp_path_factory.mktemp("pairs") / "run"
    assert one_device(config_of(), workdir).status == "finished"
    return workdir


def test_resumed_answer_run_is_bit_identical(finished, tmp_path):
    # Checkpoints include the carries of puzzles that had not halted.
    assert one_device(config_of(steps=3), tmp_path / "half").status == "finished"
    again = one_device(config_of(), tmp_path / "half", resume=True)
    last = (finished / "metrics.jsonl").read_text().splitlines()[-1]
    assert again.digest == json.loads(last)["digest"]


def test_log_has_answers_and_halting(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    train_rows = [row for row in rows if row.get("split") == "train"]
    valid_rows = [row for row in rows if row.get("split") == "valid"]
    assert {"answer", "halt", "exact", "accuracy", "steps", "ended"} <= train_rows[0].keys()
    assert valid_rows[-1]["loss"] == valid_rows[-1]["answer"]
    assert valid_rows[-1]["steps"] == 3 and "bits_per_byte" not in valid_rows[-1]


@pytest.mark.parametrize(
    ("devices", "accumulate"), [pytest.param(4, 1, marks=pytest.mark.slow), (1, 2)]
)
def test_exploration_is_independent_of_placement(devices, accumulate, tmp_path, monkeypatch):
    # Every row except those that explore would halt after one ACT step.
    monkeypatch.setattr(act, "should_halt", lambda config, out: out.q_halt < jnp.inf)
    curves = []
    for name, count, parts in (("one", 1, 1), ("other", devices, accumulate)):
        config = config_of(eval_every=0, checkpoint_every=6)
        config.model_config.update({"halt_exploration": 0.5})
        config.optimizer.accumulate = parts
        run(config, tmp_path / name, quiet=True, devices=jax.devices()[:count])
        log = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in log]
        curves.append([row for row in rows if row.get("split") == "train"])
    assert 0.0 < min(row["ended"] for row in curves[0]) < 1.0
    for one, other in zip(*curves, strict=True):
        assert (one["steps"], one["ended"]) == (other["steps"], other["ended"])
        assert one["answer"] == pytest.approx(other["answer"], rel=1e-4)


def test_evaluation_writes_answers_and_a_page(finished, capsys):
    assert evaluate([f"--workdir={finished}", "--max-pairs=8", "--batch-size=4"]) == 0
    assert "unseen questions exactly" in capsys.readouterr().out.replace("\n", " ")
    result = json.loads((finished / "answers.json").read_text())
    assert result["splits"].keys() == {"seen", "unseen"} and result["rounds"] == 3
    unseen = result["splits"]["unseen"]
    assert len(unseen["exact_by_round"]) == 3 and unseen["exact_by_round"][-1] == unseen["exact"]
    assert 0.0 < unseen["cells"] < 1.0 and result["speed"]["latency_ms"] > 0
    page = (finished / "report.html").read_text()
    assert "Unseen questions" in page and "ACT steps" in page
    assert evaluate([f"--workdir={finished}", "--max-bytes=9"]) == 2
    assert "for runs on text" in capsys.readouterr().err


def test_long_pairs_are_skipped(tmp_path, capsys):
    """Mode prefix_ar from a file most of whose pairs, the first ones too, are too long."""
    file = tmp_path / "a.tsv"
    far = "".join(f"a question {i} without an end\tanswer {i}\n" for i in range(60))
    file.write_text(far + "".join(f"ask {i}\tsay {i}\n" for i in range(60)))
    sizes = {name: SIZES[name] for name in ("width", "head_size", "mlp_multiple", "vocab_size")}
    sizes |= {"high_layers": 1, "low_layers": 1, "low_cycles": 1, "grad_calls": 3}
    config = text_config(format="pairs", tasks=(), paths=(str(file),), tokenizer="answer_char")
    config.update({"model": "hrlm/prefix_ar", "seq_len": 16, "steps": 2, "eval_every": 2})
    config.model_config = sizes
    with pytest.raises(UserError, match=r"raise config\.seq_len.*skip_long=true"):
        open_task(config)
    config.data.skip_long = True
    workdir = tmp_path / "run"
    result = one_device(config, workdir)
    assert result.status == "finished"
    report, commands = after_training(workdir, result)
    assert report.is_file() and "eval.predict" in commands[-1]
    assert "-> " in capsys.readouterr().out
    assert evaluate([f"--workdir={workdir}", "--max-pairs=8", "--batch-size=4"]) == 0
    scores = json.loads((workdir / "answers.json").read_text())["splits"]
    assert scores["unseen"]["expected_length"] < 8 and scores["seen"]["pairs"] == 8
    with pytest.raises(UserError, match="expected a run on text, got one that answers questions"):
        load_run(workdir)


def test_scores_match_the_selected_answers():
    pairs = [Pair("q1", "a"), Pair("q2", "b")]
    answers = Answers([["a", "x"], ["x", "b"]], np.array([1, 2]))
    scores = _split(pairs, answers, answers.adaptive, grid=False)
    assert (scores["exact"], scores["exact_adaptive"], scores["exact_last"]) == (1.0, 1.0, 0.5)
    assert scores["exact_by_round"] == [0.5, 0.5] and "by_confidence" not in scores
    answers = Answers(answers.by_round, answers.rounds, np.array([[0.95, 0.4], [0.2, 0.95]]))
    by = _split(pairs, answers, answers.adaptive, grid=False)["by_confidence"]
    assert by["0.9"] == {"exact": 1.0, "rounds": 1.5}
    assert by["0.99"] == {"exact": 0.5, "rounds": 2.0}  # never so sure: the last step


def test_ask_command(finished, capsys):
    pair = pairs_of(config_of()).test[0]
    asked = [f"--workdir={finished}", "--input", pair.question, "--show"]
    assert predict(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[0]) == 16 and [line[:9] for line in lines[1:]] == [
        f"  round {i}" for i in (1, 2, 3)
    ]
    assert sum("<- halts" in line for line in lines) == 1
    assert HRLMInference(finished).predict(pair.question) == lines[0]
    assert predict([f"--workdir={finished}", "--input", "x" * 16]) == 2
    assert "unknown symbol 'x'" in capsys.readouterr().err
    assert predict([f"--workdir={finished}", "--input", "1..."]) == 2
    assert "has 4 cells, this model reads grids of 16" in capsys.readouterr().err


def test_ask_command_with_invalid_text(finished, capsys, monkeypatch):
    raw = io.TextIOWrapper(io.BytesIO("¿1...?\n".encode("latin-1")), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", raw)
    assert predict([f"--workdir={finished}"]) == 2
    error = capsys.readouterr().err
    assert error == "error: standard input: line 1 is not UTF-8; convert it\n"
    assert predict([f"--workdir={finished}", "--input", "\udcbf1"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --input: must be UTF-8, its symbol 1 is not\n"
    sure = [f"--workdir={finished}", "--input", "1" * 16, "--confidence=0.9"]
    assert predict(sure) == 2  # all steps are run, so that it would say nothing
    assert "add --halt adaptive" in capsys.readouterr().err
    assert predict([*sure, "--halt=adaptive"]) == 0
    assert predict([f"--workdir={finished}", "--input", "1" * 16, "--confidence=1.5"]) == 2
    assert "a probability from 0 to 1, got 1.5" in capsys.readouterr().err
    assert predict([f"--workdir={finished}", "--input", "1" * 16, "--puzzle=1"]) == 2
    assert "puzzle: must be 0 to 0" in capsys.readouterr().err


def test_other_puzzles_are_measured(finished, tmp_path, capsys):
    file = tmp_path / "test.csv"
    pairs = pairs_of(config_of()).test[:6]
    rows = "".join(f"{i},{p.answer},{p.question}\n" for i, p in enumerate(pairs))
    file.write_text("id,Solutions,Quizzes\n" + rows)
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "answers.json").unlink(missing_ok=True)
    arguments = [f"--workdir={workdir}", "--data", str(file), "--batch-size=4"]
    assert evaluate(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "of 6 other questions exactly" in printed and "not used: fields 'id' (6)" in printed
    result = json.loads((workdir / "answers_other.json").read_text())
    assert list(result["splits"]) == ["other"] and result["splits"]["other"]["pairs"] == 6
    assert not (workdir / "answers.json").exists()  # not a score on the run's own puzzles


def test_numbers_are_shown_although_they_cannot_be_stored(finished, capsys, monkeypatch):
    def refuse(path, *arguments, **options):
        raise UserError(f"{path}: cannot be written (Permission denied)")

    monkeypatch.setattr("eval.evaluators.answers.write_json", refuse)
    assert evaluate([f"--workdir={finished}", "--max-pairs=4", "--batch-size=4"]) == 2
    out, err = capsys.readouterr()
    assert "unseen questions exactly" in out.replace("\n", " ")
    assert err == f"error: {finished}/answers.json: cannot be written (Permission denied)\n"


def test_a_question_is_asked_as_it_was_trained(tmp_path):
    """With a prefix that begins with line breaks, and one in decomposed characters."""
    (tmp_path / "a.tsv").write_text("".join(f"word {i}\tpalabra {i}\n" for i in range(20)))
    paths = (str(tmp_path / "a.tsv"),)
    fields = {"mode": "nar", "seq_len": 32, "puzzle_ids": 0, "halts": False, "eval_halt": "max"}
    fields["eval_confidence"] = 0.0
    for prefix in ("\n\nQuestion: ", "Re\u0301pond: "):
        config = text_config(format="pairs", tasks=(), paths=paths, question_prefix=prefix)
        corpus = pairs_of(config)
        model = HRLMInference.__new__(HRLMInference)
        model.config = config
        limits = {"halt_max_steps": 1, "limits": (None, None)}
        asked = SimpleNamespace(config=SimpleNamespace(**fields, **limits))
        model.answerer = Answerer(asked, corpus.tokenizer)
        pair = corpus.train[0]
        trained = lay_out_pairs([pair], corpus.tokenizer, "nar", 32).inputs
        bare = pair.question[len(unicodedata.normalize("NFC", prefix)) :]
        for question in (bare, pair.question, prefix + bare):
            rows, _ = model.answerer._rows(model._as_trained([question]), None)
            np.testing.assert_array_equal(rows, trained)
        np.testing.assert_array_equal(model.answerer._rows([pair.question], None)[0], trained)
        assert model.notes([bare]) == ()
        with pytest.raises(UserError, match=r"does not know .* of the questions"):
            model.notes(["\u4e09\u52a0\u4e94" * 9])


def test_what_is_not_used_is_told(finished, tmp_path):
    said = json.loads((finished / "data.json").read_text())
    assert said["sizes"]["train"] > 0 and said["notes"] == []
    file = tmp_path / "a.jsonl"
    rows = [{"question": f"ask {i}", "answer": f"say {i} \u0142", "id": i} for i in range(40)]
    rows += [{"question": f"a question {i} without an end", "answer": f"it {i}"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = text_config(format="pairs", tasks=(), paths=(str(file),), tokenizer="answer_char")
    config.update({"seq_len": 24})
    config.data.skip_long = True
    task = open_task(config)
    says = "\n".join(task.notes)
    assert "not used: fields 'id' (40)" in says and "not used: pairs of train too long" in says
    assert "unknown to the tokenizer: " in says and "of train, such as '\u0142'" in says
    assert task.described()["notes"] == list(task.notes)
    chinese = [{"question": f"\u4e09\u52a0{i}", "answer": "\u516b"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in chinese))
    with pytest.raises(UserError, match="'answer_char' does not know"):
        open_task(config)


def test_question_is_encoded_as_in_training(finished, monkeypatch):
    model = HRLMInference(finished)
    question = pairs_of(config_of()).test[0].question
    assert model.predict(question.replace(".", "0")) == model.predict(question)
    asked = []
    monkeypatch.setattr(
        model.answerer, "answer", lambda texts, puzzles: asked.extend(texts) or texts
    )
    with model.config.unlocked():
        model.config.data.update({"format": "pairs", "question_prefix": "To Spanish: "})
    model.predict_all(["cat", "To Spanish: dog"])
    assert asked == ["To Spanish: cat", "To Spanish: dog"]


def test_answerer_halts_like_solve(finished):
    model = HRLMInference(finished).answerer.model
    corpus = pairs_of(config_of())
    rows = np.stack([corpus.tokenizer.encode(p.question) for p in corpus.train[:12]])
    # A head with which half of them halt at once.
    shape = model.q_head.kernel.shape
    model.q_head.kernel[...] = 5.0 * jax.random.normal(jax.random.key(0), shape)
    q = model(model.initial_carry(*rows.shape), rows)[1].q_halt
    model.q_head.bias[...] = model.q_head.bias[...] - np.median(q)
    ids, rounds, sure = Answerer(model, corpus.tokenizer, batch_size=12).run(rows)
    logits, expected, _ = jax.jit(lambda m, x: m.solve(x, adaptive=True))(model, rows)
    np.testing.assert_array_equal(rounds, expected)
    assert len(set(rounds.tolist())) > 1
    # What must be surer stops later, and never before it is.
    least = float(np.median(sure.max(0)))
    answers = Answerer(model, corpus.tokenizer, batch_size=12, confidence=least)
    _, later, _ = answers.run(rows)
    assert (later >= rounds).all() and (later > rounds).any()
    chosen = sure[later - 1, np.arange(12)]
    assert ((chosen >= least) | (later == len(ids))).all()
    run = Answers([["x"] * 12] * len(ids), rounds, sure)
    np.testing.assert_array_equal(run.rounds_of(max(least, 0.5)), later)
    chosen = ids[rounds - 1, np.arange(12)]
    np.testing.assert_array_equal(chosen, np.argmax(logits, -1))
    questions = [pair.question for pair in corpus.train[:12]]
    for halt in ("adaptive", "max"):
        answerer = Answerer(model, corpus.tokenizer, batch_size=5, halt=halt)
        assert answerer.answer(questions) == answerer.select(answerer.ask(questions))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"tasks": ("sudoku5",)}}, "unknown 'sudoku5'; did you mean 'sudoku"),
        ({"data": {"tasks": ()}}, "config.data.tasks: name at least one of sudoku4"),
        ({"data": {"tokenizer": "byte"}}, "format 'puzzle' needs one of answer_char"),
        ({"data": {"tokenizer": "hybrid"}}, "puzzles need 'grid'"),
        ({"data": {"valid_fraction": 0.0}}, "valid_fraction must be above 0"),
        (
            {"data": {"format": "pairs", "tokenizer": "bpe", "augment": False}},
            "name files of pairs",
        ),
        ({"model": "transformer", "model_config": {}}, "'transformer' does not read 'puzzle'"),
        ({"curriculum": ((0.5, 8), (1.0, 16))}, "rows of pairs have a fixed length"),
        ({"seq_len": 20}, "has 16 cells, expected 20"),
    ],
)
def test_invalid_experiments_are_rejected(changes, words):
    with pytest.raises(UserError, match=words):
        open_task(config_of(**changes))


def test_unsupported_data_is_rejected():
    model = jaxmodels.create("hrlm", **SIZES | {"vocab_size": 9}, seq_len=16)
    with pytest.raises(UserError, match="mode 'nar' requires 'pairs' or 'task' or 'built'"):
        model.check_data(config_of().data, 16)
    with pytest.raises(UserError, match="carry_state"):
        model.check_data(text_config(carry_state=False).data, 16)
    with pytest.raises(UserError, match="must be the model's 16"):
        model.check_data(text_config().data, 32)


def test_tokenizers_of_tasks():
    config = text_config(tasks=("translation", "factual"), examples=400)
    data = open_task(config)
    assert data.config.model_config.vocab_size == data.corpus.tokenizer.vocab_size
    assert {pair.task for pair in data.corpus.test} == {"translation", "factual"}
    batch = next(iter(data.train))
    assert batch["inputs"].shape == (8, 32) and batch["weights"].any(1).all()
    seen = {pair.combination for pair in data.corpus.train}
    assert not seen & {p.combination for p in data.corpus.valid + data.corpus.test}


def test_validation_covers_every_task():
    config = text_config(
        tasks=("translation", "factual", "extraction"), examples=400, max_tokens=2000
    )
    config.data.eval_tokens = 12 * config.seq_len
    config.data.skip_long = True
    data = open_task(config)
    order = [pair.task for pair in data.corpus.valid]
    rows = np.concatenate([batch["inputs"] for batch in data.valid])[:12]
    texts = [data.corpus.tokenizer.decode(row[: np.argmax(row == SEP)]) for row in rows]
    tasks = [next(p.task for p in data.corpus.valid if p.question == text) for text in texts]
    assert len(tasks) == 12 and len(set(tasks)) == len(set(order)) == 3
    # Validation selects the checkpoint, so the test split must not overlap with it.
    held = data.corpus.valid, data.corpus.test
    for field in ("combination", "question"):
        sides = [{(p.task, getattr(p, field)) for p in part} for part in held]
        assert not sides[0] & sides[1]


def test_difficulty_of_questions():
    lengths = {difficulty(pair) - len(pair.answer) for pair in make_task("extraction", 50, 0)}
    assert lengths == {0}
    assert difficulty(Pair("1..4", "1324", "sudoku4", ("2",))) == 2
    label = _bins(81)
    assert [label(n) for n in (47, 48, 51.0, 52)] == [
        "44 to 47",
        "48 to 51",
        "48 to 51",
        "52 to 55",
    ]
    assert _bins(16)(7.0) == "7"


def test_files_are_split_by_question(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"word {i // 3}\tpalabra {i}\n" for i in range(60)))
    config = text_config(
        format="pairs", tasks=(), paths=(str(file),), question_prefix="To Spanish: "
    )
    corpus = pairs_of(config)
    asked = [{p.question for p in part} for part in (corpus.train, corpus.valid, corpus.test)]
    assert sum(map(len, asked)) == len(set.union(*asked)) == 20
    assert all(p.question.startswith("To Spanish: word") for p in corpus.train)


def test_puzzle_vectors_use_sign_descent():
    config = config_of(optimizer={"schedule": "constant", "weight_decay": 0.0, "clip_norm": 0.0})
    params = {"puzzle": np.ones((2, 3), np.float32), "head/kernel": np.ones((3, 3), np.float32)}
    grads = jax.tree.map(lambda p: np.full_like(p, 1e-3), params)
    grads["puzzle"][0] = 0.0
    labels = {"puzzle": "puzzle/sign", "head/kernel": "head/matrix"}
    optimizer = make_optimizer(config, decay_factors(params), labels)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    o = config.optimizer
    moved = -o.sign_rate * (1.0 + o.sign_decay)
    np.testing.assert_allclose(updates["puzzle"], [[0.0] * 3, [moved] * 3], rtol=1e-6)
    np.testing.assert_allclose(updates["head/kernel"], -o.learning_rate, rtol=1e-3)


def test_sign_descent_updates_only_looked_up_rows():
    table = {"puzzle": np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)}
    grads = {"puzzle": np.array([[0.0, 0.0], [0.3, -7.0]], np.float32)}
    optimizer = sparse_sign_sgd(0.1, 0.5)
    updates, _ = optimizer.update(grads, optimizer.init(table), table)
    np.testing.assert_allclose(updates["puzzle"], [[0, 0], [-0.25, -0.1]], atol=1e-7)
