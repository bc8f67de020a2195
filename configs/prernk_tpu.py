"""PRERNK, larger and in bfloat16, for a TPU slice; parameters split over four chips.

    python -m train.compile --config=configs/prernk_tpu.py --topology=v5e:4x4
    python -m train --config=configs/prernk_tpu.py --workdir=runs/prernk_tpu

Measured: the compiled step alone, by the first command, without a TPU. v5e:4x4 (data 4, fsdp 4):
2.05 GiB of a chip's 16 at the peak, 0.31 GiB of it parameters, moments and carried state; 11
all-gathers, 9 reduce-scatters, 9 all-reduces, none in a loop; 314 s to compile on two busy cores
(libtpu 0.0.42.1, jax 0.10.2). Speed and score are not measured: that takes the TPU.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default experiment with a wider cell, larger batch and longer segments."""
    spec = importlib.util.spec_from_file_location("prernk", Path(__file__).with_name("prernk.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.model_config = {
        "width": 1024,
        "hidden_size": 2048,
        "symbol_slots": 32,
        "relation_size": 128,
        "abstraction_sizes": (2048, 1024, 512),
        "remat_chunk": 32,
    }
    config.update(steps=20000, batch_size=256, seq_len=512)
    config.update(eval_every=1000, checkpoint_every=1000)
    config.log_every, config.dtype, config.parallel = 50, "bfloat16", "shard_map"
    config.optimizer.update(learning_rate=1e-3, warmup_steps=500, weight_decay=0.1)
    config.optimizer.b2 = 0.95
    config.mesh = {"fsdp": 4, "tensor": 1}
    return config
