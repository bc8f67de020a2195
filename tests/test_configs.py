"""Shipped experiments: every config file is complete and valid."""

from pathlib import Path

import pytest

import jaxmodels
from train.config import apply_overrides, load_config, validate_config

ROOT = Path(__file__).parents[1]
FILES = [
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("configs/**/*.py"))
    if "def get_config(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", FILES)
def test_shipped_config_is_valid(path):
    # The user names the base of a tuned model.
    tuned = path == "configs/tune.py"
    load_config(path, ["--config.tune.base=runs/base"] if tuned else [])  # validates


def test_recipe_of_hrlms_source():
    """L-52."""
    config = load_config("configs/hrlm/seed.py")
    assert (config.model, config.batch_size, config.optimizer.name) == ("hrlm/v1", 32, "adamw")
    o = config.optimizer
    assert (o.learning_rate, o.final_fraction, o.warmup_steps) == (1e-5, 0.1, 10_000)
    assert (o.weight_decay, o.b1, o.b2) == (0.01, 0.9, 0.95)


@pytest.mark.parametrize(
    ("preset", "rows", "length", "rate"),
    [("base", 16, 256, 5e-5), ("intermediate", 32, 512, 1e-5), ("advanced", 64, 1024, 5e-6)],
)
def test_the_sources_sizes_by_flags_of_its_recipe(preset, rows, length, rate):
    """L-09 to L-11."""
    config = load_config("configs/hrlm/seed.py")
    flags = [f"model=hrlm/{preset}", f"batch_size={rows}", f"seq_len={length}"]
    flags.append(f"optimizer.learning_rate={rate}")
    apply_overrides(config, [f"--config.{flag}" for flag in flags])
    validate_config(config)
    model = jaxmodels.make_config(config.model, **config.model_config.to_dict() | {"vocab_size": 9})
    assert model.seq_len == config.seq_len and config.optimizer.learning_rate == rate
