"""Experiment configs: field table (schema.py); files, overrides and JSON (read.py)."""

from train.config.read import (
    apply_overrides,
    complete_config,
    from_json,
    load_config,
    read_config,
    to_json,
    with_tuples,
)
from train.config.schema import (
    differences,
    may_change,
    model_defaults,
    validate_config,
)

__all__ = [
    "apply_overrides",
    "complete_config",
    "differences",
    "from_json",
    "load_config",
    "may_change",
    "model_defaults",
    "read_config",
    "to_json",
    "validate_config",
    "with_tuples",
]
