"""Fixtures: a finished run of a tiny model on a few small documents."""

import numpy as np
import pytest

from train.api import train_text_corpus
from train.config import complete_config

EXPERIMENT = """\
from tests.eval.conftest import tiny_config

def get_sweep(preset="cpu"):
    config = tiny_config(eval_every=50, checkpoint_every=50, log_every=10)
    config.optimizer.learning_rate = 0.002
    return {
        "config": config,
        "steps": 200,
        "seeds": (0, 1),
        "entries": {
            "base": {"group": "tier1", "says": "as it is"},
            "slow": {
                "group": "tier2",
                "says": "hardly learns",
                "changes": {"optimizer.learning_rate": 1e-6},
            },
        },
        "questions": {"rate": ("base", "slow", "Does learning help?")},
    }
"""

WORDS = "the people of this nation and their union shall work for peace in our time".split()


def tiny_config(**changes):
    config = complete_config(
        {
            "model": "tests.eval.tiny_bytes:Toy",
            "model_config": {"width": 16},
            "steps": 12,
            "batch_size": 8,
            "seq_len": 16,
            "eval_every": 6,
            "checkpoint_every": 6,
            "log_every": 2,
            "optimizer": {"learning_rate": 0.02, "warmup_steps": 2},
            "data": {"eval_tokens": 512},
        }
    )
    config.update(changes)
    return config


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Folder of 20 documents, which gives validation and test one each."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for i in range(20):
        sentences = [" ".join(rng.choice(WORDS, 12)).capitalize() + "." for _ in range(12)]
        (folder / f"{i:02d}.txt").write_text(" ".join(sentences) + "\n")
    return folder


@pytest.fixture(scope="session")
def finished(texts, tmp_path_factory):
    """Folder of a finished run; tests that write into it must copy it."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    result = train_text_corpus(texts, workdir=workdir, config=tiny_config())
    assert result.status == "finished"
    return workdir


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(EXPERIMENT)
    return path
