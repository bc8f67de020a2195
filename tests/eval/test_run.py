"""Loading of runs with present, missing or changed text."""

import json
import shutil

import pytest

import eval.sample
from eval.run import load_run, load_trained
from jaxmodels.errors import UserError


@pytest.fixture
def moved(finished, texts, tmp_path):
    """Copies of a run and of its training text."""
    run, own = tmp_path / "run", tmp_path / "texts"
    shutil.copytree(finished, run)
    shutil.copytree(texts, own)
    return run, own


def test_sample_does_not_need_the_text(finished, texts, capsys):
    hidden = texts.with_name("hidden")
    texts.rename(hidden)
    try:
        arguments = [f"--workdir={finished}", "--prompt", "the people", "--tokens", "8"]
        assert eval.sample.main(arguments) == 0
        with pytest.raises(UserError):
            load_run(finished)
    finally:
        hidden.rename(texts)
    assert capsys.readouterr().out.startswith("the people")


@pytest.mark.parametrize("step", ["", "-1", "1e3", "²", "9" * 5000])
def test_checkpoints_that_are_no_step(step):
    with pytest.raises(UserError, match=f"^--checkpoint={step}: give best, last, or the number"):
        load_trained("run", step)


def test_changed_text_is_rejected(finished, texts):
    file = sorted(texts.glob("*.txt"))[0]
    before = file.read_bytes()
    assert load_run(finished).corpus.fingerprint() == load_trained(finished)[0].data
    file.write_bytes(before + b"And one sentence more.\n")
    try:
        with pytest.raises(UserError, match="not the text that"):
            load_run(finished)
    finally:
        file.write_bytes(before)


def test_other_text_uses_the_tokenizer_of_the_run(moved):
    run, own = moved
    assert load_run(run, paths=(own,)).corpus.tokenizer.name == "byte"
    (run / "tokenizer.json").write_text(json.dumps({"kind": "runes"}))
    with pytest.raises(UserError, match="'runes'"):
        load_run(run, paths=(own,))
    (run / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load_run(run, paths=(own,))
