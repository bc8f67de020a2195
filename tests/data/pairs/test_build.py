"""Built datasets: what the files say, that HRM's way of reading them works, what is refused."""

import json
import shutil

import numpy as np
import pytest

from jaxmodels.data.build import Options, build, main
from jaxmodels.data.pairs.hrm_format import LAYOUTS, Arrays, read_built
from jaxmodels.data.pairs.hrm_read import verify
from jaxmodels.data.pairs.rows import lay_out_pairs
from jaxmodels.data.tasks import TASKS
from jaxmodels.data.tasks.sources import pairs_of_sources
from jaxmodels.data.tokenizers.answers import SEED_CHARSET, AnswerCharTokenizer
from jaxmodels.errors import UserError

FIELDS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
L33 = {
    "pad_id": 0,
    "ignore_label_id": -100,
    "blank_identifier_id": 0,
    "num_puzzle_identifiers": 1,
    "mean_puzzle_examples": 1,
    "sets": ["all"],
}


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    """L-38: the source's example set."""
    out = tmp_path_factory.mktemp("data") / "translation-simple"
    build(["seed_translation"], out, Options())
    return out


@pytest.fixture
def broken(simple, tmp_path):
    """A copy to damage."""
    shutil.copytree(simple, tmp_path / "b")
    return tmp_path / "b"


def only_layout(folder, number):
    """Leaves one of the two layouts."""
    metadata, pattern = LAYOUTS[1 - number]
    for split in ("train", "test"):
        (folder / split / metadata).unlink()
        for field in FIELDS:
            (folder / split / pattern.format(set="all", field=field)).unlink()


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_and_metadata(simple, split):
    """L-31, L-33, L-34: both names of every array, and exactly the fields of the metadata."""
    names = {f"{f}.npy" for f in FIELDS} | {f"all__{f}.npy" for f in FIELDS}
    assert {p.name for p in (simple / split).iterdir()} == names | {"dataset.json", "metadata.json"}
    for name, _ in LAYOUTS:
        told = json.loads((simple / split / name).read_text())
        groups = {"train": 4, "test": 1}[split]
        assert told == L33 | {"seq_len": 256, "vocab_size": 195, "total_groups": groups}
    for field in FIELDS:
        one, other = (np.load(simple / split / f"{p}{field}.npy") for p in ("", "all__"))
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.int32


def test_labels_and_inputs_of_a_row(simple):
    """L-30, L-32: blanks after the question, and a label for the end."""
    t = AnswerCharTokenizer()
    inputs, labels = (np.load(simple / "test" / f"{f}.npy") for f in ("inputs", "labels"))
    question, answer = next(
        (q, a)
        for q, a in {(p.question, p.answer) for p in TASKS["seed_translation"]()}
        if (inputs[0, : len(q)] == t.encode(q)).all() and inputs[0, len(q)] == 3
    )
    first = len(question) + 1
    expected = np.full(256, -100)
    expected[first : first + len(answer) + 1] = [*t.encode(answer), 1]
    np.testing.assert_array_equal(labels[0], expected)
    assert (inputs[0, first:] == 0).all()
    assert (inputs == inputs[0]).all()  # one question, two hundred times


def as_hrm_reads(folder):
    """Read examples by group and puzzle, as `sapientinc/HRM:puzzle_dataset.py` does."""
    a = {f: np.load(folder / f"all__{f}.npy", mmap_mode="r") for f in FIELDS}
    for group in range(a["group_indices"].size - 1):
        for puzzle in range(a["group_indices"][group], a["group_indices"][group + 1]):
            for example in range(a["puzzle_indices"][puzzle], a["puzzle_indices"][puzzle + 1]):
                yield group, a["puzzle_identifiers"][puzzle], a["inputs"][example]


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_question_is_a_group(simple, split):
    read = list(as_hrm_reads(simple / split))
    assert len(read) == {"train": 800, "test": 200}[split]
    assert {identifier for _, identifier, _ in read} == {0}
    of = {}
    for group, _, row in read:
        of.setdefault(group, set()).add(row.tobytes())
    assert all(len(rows) == 1 for rows in of.values())
    assert len(set.union(*of.values())) == len(of) == {"train": 4, "test": 1}[split]


@pytest.mark.parametrize("mode", ["nar", "prefix_ar", "as_written"])
@pytest.mark.parametrize("layout", [None, 0, 1])
def test_written_rows_are_read_back(tmp_path, mode, layout):
    options = Options(mode=mode, count=60, tokenizer="hybrid", max_tokens=300, seq_len=96)
    build(["translation", "factual"], tmp_path / "d", options)
    if layout is not None:
        only_layout(tmp_path / "d", layout)
    splits, tokenizer = read_built(tmp_path / "d")
    assert tokenizer.name == "hybrid" and tokenizer.vocab_size <= 300
    train, test, way = pairs_of_sources(["translation", "factual"], count=60)
    assert way == "by unseen combination of slots" and len(train) + len(test) == 120
    for name, pairs in (("train", train), ("test", test)):
        expected = lay_out_pairs(pairs, tokenizer, mode, 96)
        for one, other in zip(splits[name].rows(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_question_on_both_sides(name, seed):
    train, test, _ = pairs_of_sources([name], count=300, seed=seed)
    assert not {p.question for p in train} & {p.question for p in test}
    assert 40 <= len(test) <= 120


@pytest.mark.parametrize("name", [name for name in TASKS if name != "seed_translation"])
def test_unseen_combinations_consist_of_trained_values(name):
    """So few pairs that a split by question alone would hold out what stands in one of them."""
    train, test, _ = pairs_of_sources([name], count=60)
    shown = {(i, value) for p in train for i, value in enumerate(p.combination)}
    assert len(test) > 2
    assert {(i, value) for p in test for i, value in enumerate(p.combination)} <= shown


def test_all_answers_of_a_question_are_on_one_side(tmp_path):
    """Also across two files."""
    (tmp_path / "a.tsv").write_text("".join(f"word {i % 20}\tpalabra {i}\n" for i in range(60)))
    lines = [{"input": f" word {i} ", "output": f"mot {i}"} for i in range(20)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = [str(tmp_path / "a.tsv"), str(tmp_path / "b.jsonl")]
    line = build(sources, tmp_path / "d", Options(seq_len=64, question_prefix="Say: "))
    assert "64 train + 16 test rows, split by unique question" in line
    splits, tokenizer = read_built(tmp_path / "d")
    asked = {}
    for name, split in splits.items():
        sizes = np.diff(split.sets["all"].group_indices)
        assert (sizes == 4).all()
        asked[name] = {tokenizer.decode(row) for row in split.sets["all"].inputs}
        assert all(q.startswith("Say: word ") for q in asked[name])
    assert len(asked["train"]) == 16 and not asked["train"] & asked["test"]
    assert "questions on both sides: 0" in verify(tmp_path / "d")


def test_questions_shared_by_a_file_and_a_task_are_not_tested(tmp_path):
    """Test questions exclude all questions in training."""
    pairs = TASKS["seed_translation"]()
    lines = {f"{p.question}\t{p.answer}\n" for p in pairs} | {f"new {i}\tx\n" for i in range(20)}
    (tmp_path / "a.tsv").write_text("".join(sorted(lines)), encoding="utf-8")
    emptied = 0
    for seed in range(6):
        sources = ["seed_translation", str(tmp_path / "a.tsv")]
        train, test, _ = pairs_of_sources(sources, seed=seed)
        assert not {p.question for p in train} & {p.question for p in test}
        emptied += len(test) < 200
    assert emptied  # the task's whole test question was in the file's training part


def test_files_are_a_function_of_the_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = Options(count=200, seed=seed, tokenizer="bpe", max_tokens=300)
        build(["grammar"], tmp_path / name, options)
    a, b, c = (
        {
            str(p.relative_to(tmp_path / name)): p.read_bytes()
            for p in (tmp_path / name).rglob("*.npy")
        }
        for name in "abc"
    )
    assert a == b and len(a) == 20
    assert a["train/inputs.npy"] != c["train/inputs.npy"]


def test_tokenizers_are_fitted_on_training_pairs_alone(tmp_path):
    """A word of test pairs alone is not in the vocabulary."""
    pairs = [f"common{i} word\tyes\n" for i in range(10)]
    (tmp_path / "a.tsv").write_text("".join(pairs))
    build([str(tmp_path / "a.tsv")], tmp_path / "d", Options(tokenizer="hybrid"))
    _, tokenizer = read_built(tmp_path / "d")
    learnt = {word for word in tokenizer.words if word.startswith("common")}
    assert len(learnt) == 8


def test_pairs_that_are_too_long_are_refused_or_counted(tmp_path):
    lines = [f"question {i}\t{'long ' * (20 if i == 7 else 1)}\n" for i in range(30)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    options = {"seq_len": 40}
    with pytest.raises(UserError, match=r"does not fit in 40 \(pair \d+: 'question 7'"):
        build([str(tmp_path / "a.tsv")], tmp_path / "d", Options(**options))
    assert not list(tmp_path.glob("d*"))
    line = build([str(tmp_path / "a.tsv")], tmp_path / "d", Options(**options, skip_long=True))
    assert line.endswith("1 too long")
    splits, _ = read_built(tmp_path / "d")
    assert sum(len(s.sets["all"].inputs) for s in splits.values()) == 29


def write_hrm_sudoku(folder):
    """As HRM writes grids: no tokenizer, label 0 ignored, groups of several puzzles, two sets."""
    rng = np.random.Philox(key=1).random_raw(2 * 6 * 16) % np.uint64(5)
    inputs, labels = rng.astype(np.uint8).reshape(2, 6, 16)
    (folder / "train").mkdir(parents=True)
    for name, groups in (("all", [0, 1, 4]), ("more", [0, 4])):
        arrays = Arrays(inputs, labels, np.arange(4), np.array([0, 1, 2, 4, 6]), np.array(groups))
        for field, values in arrays._asdict().items():
            np.save(folder / "train" / f"{name}__{field}.npy", values)
    metadata = L33 | {"seq_len": 16, "vocab_size": 5, "total_groups": 3, "ignore_label_id": 0}
    metadata |= {"num_puzzle_identifiers": 4, "mean_puzzle_examples": 1.5, "sets": ["all", "more"]}
    (folder / "train" / "dataset.json").write_text(json.dumps(metadata))
    return inputs, labels


def test_datasets_of_hrm_are_read(tmp_path):
    inputs, labels = write_hrm_sudoku(tmp_path)
    splits, tokenizer = read_built(tmp_path)
    assert tokenizer is None and list(splits) == ["train"]
    rows = splits["train"].rows("more")
    np.testing.assert_array_equal(rows.inputs, inputs)
    np.testing.assert_array_equal(rows.targets, labels)
    np.testing.assert_array_equal(rows.weights, (labels != 0).astype(np.float32))
    assert rows.identifiers.tolist() == [0, 1, 2, 2, 3, 3]
    assert "more: inputs (6, 16)" in verify(tmp_path)


def save(name, values):
    return lambda folder: np.save(folder / "train" / name, values)


def change(name, **fields):
    def apply(folder):
        path = folder / "train" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return apply


DAMAGE = {
    "gone": (lambda f: (f / "train/all__labels.npy").unlink(), "all__labels.npy: missing"),
    "cut": (
        lambda f: (f / "train/labels.npy").write_bytes((f / "train/labels.npy").read_bytes()[:999]),
        "train/labels.npy: not a readable array",
    ),
    "no array": (
        lambda f: (f / "train/inputs.npy").write_text("hello"),
        "train/inputs.npy: not a readable array",
    ),
    "objects": (save("inputs.npy", np.array([None])), "inputs.npy: not a readable array"),
    "floats": (save("all__inputs.npy", np.ones((800, 256))), "expected integers, got float64"),
    "big": (save("all__group_indices.npy", np.array([0, 2**40])), "do not fit in 32 bits"),
    "length": (save("all__inputs.npy", np.ones((800, 9), int)), r"expected \(n, 256\), got"),
    "rows": (save("all__labels.npy", np.ones((799, 256), int)), r"all__labels.npy: has shape"),
    "vocabulary": (save("all__inputs.npy", np.full((800, 256), 195)), r"has 195, .* in 0..194"),
    "label": (save("all__labels.npy", np.full((800, 256), -1)), r"labels.npy: has -1, which"),
    "identifier": (save("all__puzzle_identifiers.npy", np.ones(800, int)), r"has 1, .* in 0..0"),
    "puzzles": (save("all__puzzle_indices.npy", np.array([0, 5])), "increase from 0 to 800 exam"),
    "steps": (save("all__group_indices.npy", np.array([0, 9, 9, 800])), "to 800 puzzles"),
    "count": (save("all__puzzle_indices.npy", np.array([0, 800])), "expected 801 entries, one"),
    "groups": (save("all__group_indices.npy", np.array([0, 800])), "total_groups is 4, files h"),
    "two layouts": (save("inputs.npy", np.full((800, 256), 9)), "inputs differs between dataset"),
    "two metadata": (change("metadata.json", pad_id=1), "metadata differs between dataset"),
    "type": (change("dataset.json", seq_len="256"), "field 'seq_len' must not be '256'"),
    "bool": (change("dataset.json", pad_id=False), "field 'pad_id' must not be False"),
    "sets": (change("dataset.json", sets=["../x"]), "field 'sets' must not be"),
    "tokenizer": (
        lambda f: (f / "tokenizer.json").write_text(AnswerCharTokenizer(SEED_CHARSET).to_json()),
        "vocab_size is 195, but tokenizer.json has 83",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "not a tokenizer desc"),
    "unfinished": (
        lambda f: [(f / "train" / name).unlink() for name, _ in LAYOUTS],
        "has no dataset.json or metadata.json",
    ),
    "no JSON": (lambda f: (f / "train/dataset.json").write_text("{"), "dataset.json:1: not valid"),
    "field": (
        lambda f: (f / "train/metadata.json").write_text('{"seq_len": 1}'),
        "metadata.json: field 'vocab_size' is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_malformed_folder_is_refused_in_one_line(broken, name):
    assert len(read_built(broken)[0]) == 2
    damage, words = DAMAGE[name]
    damage(broken)
    with pytest.raises(UserError, match=words) as refused:
        read_built(broken)
    assert "\n" not in str(refused.value) and str(broken) in str(refused.value)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="has no folder train or test"):
        read_built(tmp_path / "nothing")


def test_verify_counts_questions_on_both_sides(tmp_path):
    build(["factual"], tmp_path / "d", Options(mode="prefix_ar", count=50, seq_len=64))
    shutil.rmtree(tmp_path / "d" / "test")
    shutil.copytree(tmp_path / "d" / "train", tmp_path / "d" / "test")
    for _, pattern in LAYOUTS:
        path = tmp_path / "d" / "test" / pattern.format(set="all", field="inputs")
        inputs = np.load(path)
        places = np.argmax(inputs == 3, axis=1) + 1
        inputs[np.arange(len(inputs)), places] = 9  # another first letter of each answer
        np.save(path, inputs)
    train = read_built(tmp_path / "d")[0]["train"]
    expected = len(train.sets["all"].group_indices) - 1
    assert f"questions on both sides: {expected}" in verify(tmp_path / "d")


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["seed_translation", "--out", "data/simple", "--verify", "--tokenizer", "seed_char"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "800 train + 200 test rows" in told and "seq_len 256, vocab_size 83" in told
    assert "inputs (800, 256), labels (800, 256)" in told
    assert "questions on both sides: 0" in told
    assert "unknown to the tokenizer: " in told and "of train, such as" in told
    labels = [line for line in told.splitlines() if "% of them unknown" in line]
    unknown = [float(line.split("%")[0].split()[-1]) for line in labels]
    assert len(unknown) == 2 and max(unknown) > 0  # accents that the source's characters lack
    assert main(["--verify", "--out", "data/simple"]) == 0
    assert told.endswith(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["translatoin"], "translatoin: neither a file nor a task; did you mean 'translation'"),
        (["no/such.tsv"], "no/such.tsv: no such file"),
        (["bad.jsonl"], "bad.jsonl:2: expected the fields input and output"),
        (["one.tsv"], "train_split: 1 training and 0 test pairs"),
        (["factual", "--count", "5000"], "'factual' has 1,600 pairs"),
        (["factual", "--train-split", "1.0"], "train_split: must be between 0 and 1"),
        (["factual", "--tokenizer", "bpe", "--max-tokens", "9"], "BPE needs 260 or more"),
        (["factual", "--tokenizer", "hybrid", "--max-tokens", "9"], "hybrid needs 196 or more"),
        (["factual", "--seq-len", "8"], "does not fit in 8"),
        ([], "name a task or files, or pass --verify"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"input": "a", "output": "b"}\n{"input": "c"}\n')
    (tmp_path / "one.tsv").write_text("a\tb\n")
    before = sorted(tmp_path.iterdir())
    assert main([*arguments, "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and words in told and told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_output_is_new_and_complete_or_absent(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    assert main(["factual", "--out", "d"]) == main(["factual", "--out", "."]) == 2
    assert capsys.readouterr().err.count("exists already; name a new one") == 2
    (tmp_path / "file").write_text("")
    assert main(["factual", "--out", "file/d"]) == 2
    assert "cannot be written" in capsys.readouterr().err

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxmodels.data.pairs.hrm_format.np.save", full)
    assert main(["factual", "--out", "e"]) == 4
    assert "e: cannot be written (No space left" in capsys.readouterr().err
    assert not list(tmp_path.glob("e*"))
