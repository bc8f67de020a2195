"""GroundThink as its authors sized it: 12 layers x 256 with the anchor at layer 6, characters.

    python -m train --config=configs/groundthink/full.py --workdir=runs/ground --data input.txt

15,987,440 parameters at Shakespeare's 97 ids; their 11,040,011 without Mamba. Batch, length, rate
and weight decay are theirs (configs/model_8M_v3.py); gradients are summed over four micro-batches,
which is faster on a CPU and the same on paper. Scores: see docs/groundthink.md.
"""

from ml_collections import ConfigDict

from configs.groundthink.cpu import get_config as small


def get_config() -> ConfigDict:
    """10,000 steps of 8 x 256 characters."""
    config = small()
    config.model_config.update({"width": 256, "head_size": 32})
    config.model_config.update({"attn_window": 256, "norm_every": 256})
    config.update({"steps": 10_000, "batch_size": 8, "seq_len": 256})
    config.update({"eval_every": 500, "checkpoint_every": 500})
    config.optimizer.update({"learning_rate": 6e-4, "warmup_steps": 500, "accumulate": 4})
    config.data.eval_tokens = 0  # all of the validation split
    return config
