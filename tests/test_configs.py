"""Shipped experiments: every config file is complete and valid."""

from pathlib import Path

import pytest

from train.config import load_config, validate_config

ROOT = Path(__file__).parents[1]
FILES = [
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("configs/**/*.py"))
    if "def get_config(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", FILES)
def test_shipped_config_is_valid(path):
    validate_config(load_config(path))


def test_recipe_of_hrlms_source():
    """L-52."""
    config = load_config("configs/hrlm/seed.py")
    assert (config.model, config.batch_size, config.optimizer.name) == ("hrlm/v1", 32, "adamw")
    o = config.optimizer
    assert (o.learning_rate, o.final_fraction, o.warmup_steps) == (1e-5, 0.1, 10_000)
    assert (o.weight_decay, o.b1, o.b2) == (0.01, 0.9, 0.95)
