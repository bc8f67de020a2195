"""GroundThink as its authors sized it: 12 layers x 256 with the anchor at layer 6, characters.

    python -m train --config=configs/groundthink/full.py --workdir=runs/ground --data input.txt

15,987,440 parameters with Shakespeare's vocabulary of 97; the authors' 11,040,011 are without
Mamba. Batch size, length, learning rate and weight decay are theirs (configs/model_8M_v3.py).
Gradients are accumulated over four micro-batches: equivalent, and faster on a CPU. Scores:
docs/results/groundthink.md.
"""

from ml_collections import ConfigDict

from configs.groundthink import cpu


def get_config() -> ConfigDict:
    """Return the config: 10,000 steps of 8 x 256 characters."""
    config = cpu.get_config()
    config.model_config.update({"width": 256, "head_size": 32})
    config.model_config.update({"attn_window": 256, "norm_every": 256})
    config.update({"steps": 10_000, "batch_size": 8, "seq_len": 256})
    config.update({"eval_every": 500, "checkpoint_every": 500})
    config.optimizer.update({"learning_rate": 6e-4, "warmup_steps": 500, "accumulate": 4})
    config.data.eval_tokens = 0  # all of the validation split
    return config
