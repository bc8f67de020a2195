"""Memory of a preset's training step as reported by the compiler, without running it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.log import json_object
from jaxmodels.cli import write_atomically


def measure(presets: Mapping[str, tuple[int, int, float]], path: Path) -> None:
    """Compile the step of each preset and add its memory to a JSON file; skip existing entries.

    Args:
      presets: name -> (batch_size, seq_len, GB of the target card).
      path: JSON file.
    """
    for preset, (rows, length, card) in presets.items():
        for remat in (False, True):
            entries, key = json_object(path), f"{preset}{', remat' if remat else ''}"
            if key in entries:
                continue
            print(f"memory of {key}, {rows} x {length}: compiling")
            size = step_bytes(preset, rows, length, remat)
            entries[key] = size | {"batch_size": rows, "seq_len": length, "card_gb": card}
            write_atomically(path, json.dumps(entries, indent=1) + "\n")


def step_bytes(preset: str, rows: int, length: int, remat: bool, **fields: Any) -> dict[str, int]:
    """Return bytes of the arguments (parameters, moments, carry, batch) and the temporaries.

    fields: model fields that override the preset.
    """
    import jax

    import jaxmodels
    from train.config import complete_config
    from train.devices.placement import Placement

    fields = {"vocab_size": jaxmodels.make_config(preset).vocab_size, "remat": remat} | fields
    partial = {"model": preset, "model_config": fields}
    partial |= {"batch_size": rows, "seq_len": length, "parallel": "shard_map"}
    config = complete_config(partial | {"data": {"format": "pairs", "carry_state": True}})
    placement = Placement(config, jax.devices()[:1])
    shapes = placement.abstract_train_state(), placement.abstract_batch()
    analysis = placement.step.lower(*shapes).compile().memory_analysis()
    return {
        "arguments": analysis.argument_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }
