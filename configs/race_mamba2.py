"""Another recurrent entrant of the race: Mamba-2 on tinyshakespeare, character by character.

    python -m eval.bench race --data input.txt
    python -m train --config=configs/race_mamba2.py --workdir=runs/race --data input.txt

Expected: 159 s on two quiet CPU cores, validation 1.541 nats a character, seed 0 (docs/cells.md).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Contiguous tracks with the state carried; 90 % to train, the rest to validate."""
    return ConfigDict(
        {
            "model": "mamba",
            "model_config": {
                "width": 128,
                "num_layers": 4,
                "state_size": 32,
                "head_size": 32,
            },
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
