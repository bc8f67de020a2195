"""`python -m train.stages`: a chain from the command line, interrupted, gone on with, refused."""

import json

import pytest

from tests.train.corpus import small_text
from tests.train.test_loop import stop_at
from train.io.checkpoint import saved_steps
from train.io.log import read_metrics
from train.stages.__main__ import main

CONFIG = """
from tests.train.toy import toy_config
def get_config():
    return toy_config(steps=4, eval_every=2, checkpoint_every=2, log_every=1)
"""
STAGES = """
from train.stages import Stage
def get_stages():
    return [Stage("still", {"optimizer.freeze": {"other": -1}}), ("all", {"steps": 6})]
"""
GOOD = ("--config=toy.py", "--workdir=chain", "--data", "small.txt")
TALK = ("--protocol=identity", "--identity", "talk.txt", "--identity-format=text")
TALK += ("--freeze", "matrix")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a config, stages and texts, as current directory."""
    (tmp_path / "toy.py").write_text(CONFIG)
    (tmp_path / "two.py").write_text(STAGES)
    (tmp_path / "small.txt").write_text(small_text())
    (tmp_path / "talk.txt").write_text(small_text(3000).upper())
    (tmp_path / "broken.py").write_text("def get_stages():\n    return [('one',)]\n")
    (tmp_path / "group.py").write_text(
        "def get_stages():\n    return [('a', {}), ('b', {'optimizer.freeze': {'othr': -1}})]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_interrupted_chain_resumes(here, capsys):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5)  # the first step of the second stage
        assert main([*GOOD, "--stages=two.py"]) == 130
    out, err = capsys.readouterr()
    assert "chain/1_still: finished at step 4, validation loss" in out
    assert "chain/2_all: interrupted at step 1" in out
    assert "continue with\n  python -m train.stages --workdir=chain --resume" in err
    first = (here / "chain/1_still/metrics.jsonl").read_bytes()
    assert main(["--workdir=chain", "--resume"]) == 0
    assert "chain/2_all: finished at step 6" in capsys.readouterr().out
    assert (here / "chain/1_still/metrics.jsonl").read_bytes() == first
    steps = [m["step"] for m in read_metrics("chain/2_all") if m.get("split") == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
    config = json.loads((here / "chain/2_all/config.json").read_text())
    assert (config["init_from"], config["data"]["paths"]) == ("chain/1_still", ["small.txt"])
    frozen = json.loads((here / "chain/1_still/config.json").read_text())["optimizer"]["freeze"]
    assert frozen == {"other": -1}
    assert all((here / f"chain/{name}/report.html").exists() for name in ("1_still", "2_all"))
    # An existing chain is neither restarted nor mixed with other stages.
    assert main([*GOOD, "--stages=two.py"]) == 2
    assert "already holds a chain; add --resume" in capsys.readouterr().err
    assert main([*GOOD, "--protocol=thaw", "--freeze", "matrix", "--resume"]) == 2
    assert "holds a chain of other stages: still, all" in capsys.readouterr().err
    assert saved_steps(here / "chain/2_all")[-1] == 6


def test_plan_trains_nothing(here, capsys):
    assert main([*GOOD, *TALK, "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "chain/1_foundation",
        "chain/2_induction",
        "chain/3_alignment",
    ]
    assert "optimizer.freeze={'matrix': -1}, data.paths=('talk.txt',)" in lines[1]
    assert lines[2].endswith(": the config as it is")
    assert not (here / "chain").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (GOOD, "give one of --protocol and --stages"),
        ((*GOOD, "--protocol=thaw"), "name the one group to freeze, e.g. --freeze mamba"),
        ((*GOOD, "--protocol=identity"), "name the texts, e.g. --identity"),
        ((*GOOD, "--stages=tow.py"), "--stages=tow.py: no such file; did you mean two.py?"),
        ((*GOOD, "--stages=toy.py"), "--stages=toy.py: it defines no get_stages()"),
        ((*GOOD, "--stages=broken.py"), "must return a list of (name, {field: value})"),
        # Errors of later stages are reported before the first is trained.
        ((*GOOD, "--stages=group.py"), "stage 'b': config.optimizer.freeze.othr: the model has no"),
        (
            (*GOOD, "--config.data.tokenizer=char", "--config.model_config.vocab_size=0", *TALK),
            "stage 'induction': its tokenizer, fitted on other text, differs",
        ),
        (("--workdir=chain", "--resume"), "holds no chain to resume"),
        (("--workdir=chain", "--stages=two.py"), "--config is missing"),
        ((*GOOD, "--stages=two.py", "--resum"), "unknown argument '--resum'"),
    ],
)
def test_invalid_chains_are_one_line_errors(here, capsys, argv, message):
    assert main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not (here / "chain").exists()


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("--protocol identity", "--until-loss", "get_stages()"))
