"""Settings that several experiments share."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError


def sotu_bytes(model: str, learning_rate: float = 2e-3, **model_config: Any) -> ConfigDict:
    """Return the config of 800 steps on the State of the Union speeches, byte by byte.

    Batches are contiguous tracks of text; the recurrent state is carried from batch to batch.
    """
    return ConfigDict(
        {
            "model": model,
            "model_config": model_config,
            "steps": 800,
            "batch_size": 16,
            "seq_len": 64,
            "eval_every": 200,
            "checkpoint_every": 200,
            "optimizer": {"learning_rate": learning_rate, "warmup_steps": 20, "weight_decay": 0.01},
            "data": {"piece_tokens": 2048},
        }
    )


def shakespeare_race(model: str, **model_config: Any) -> ConfigDict:
    """Return the recipe that every entrant of the race on tinyshakespeare shares.

    Four layers of width 128; contiguous tracks with the state carried; 90 % of the text to train,
    the rest to validate.
    """
    return ConfigDict(
        {
            "model": model,
            "model_config": {"width": 128, "num_layers": 4} | model_config,
            "steps": 850,
            "batch_size": 16,
            "seq_len": 128,
            "eval_every": 85,
            "checkpoint_every": 850,
            "optimizer": {
                "name": "muon",
                "learning_rate": 8e-3,
                "final_fraction": 0.02,
                "warmup_steps": 50,
                "weight_decay": 0.1,
                "b1": 0.95,
            },
            "data": {
                "piece_tokens": 4096,
                "valid_fraction": 0.1,
                "test_fraction": 0.0,
                "eval_tokens": 0,  # all of it
            },
        }
    )


def answers_sweep(
    config: ConfigDict, steps: int, entries: Mapping[str, Any], questions: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a sweep of three seeds over a question-answering config, all answers evaluated.

    Args:
      config: the base config; its steps, warm-up and intervals are set to fit `steps`.
      steps: training steps of each run.
      entries, questions: see `eval/sweep/spec.py`.
    """
    config.optimizer.warmup_steps = steps // 10
    config.update({"eval_every": max(steps // 5, 1), "checkpoint_every": max(steps // 5, 1)})
    config.data.eval_tokens = 0
    return {
        "config": config,
        "steps": steps,
        "seeds": (0, 1, 2),
        "entries": entries,
        "questions": questions,
    }


def wrong(unit: str) -> dict[str, Any]:
    """Return the measure of a sweep: the percentage of `unit` that are not exactly right."""
    return {"name": "exact", "unit": f"% of {unit} wrong", "best": 1.0, "scale": 100.0}


def entry(group: str, says: str, match: str = "", **changes: Any) -> dict[str, Any]:
    """Return an entry of a sweep.

    Args:
      group: heading of its row in the report.
      says: one line of description.
      match: model field that is solved for, to match the parameters of the baseline; "" = none.
      changes: config fields that differ from the base config.
    """
    return {"group": group, "says": says, "match": match, "changes": changes}


def choose_preset(presets: Mapping[str, Any], name: str) -> Any:
    """Return the value of a preset; raise UserError for an unknown name."""
    if name not in presets:
        raise UserError(f"--preset {name}{choose_from(presets)}")
    return presets[name]
