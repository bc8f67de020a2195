"""PRERNK, larger and in bfloat16, for a TPU slice; parameters sharded over four chips.

    python -m train.compile --config=configs/prernk_tpu.py --topology=v5e:4x4
    python -m train --config=configs/prernk_tpu.py --workdir=runs/prernk_tpu

Measured: the compiled step only, by the first command, without a TPU. v5e:4x4 (data 4, fsdp 4):
peak memory 2.05 of 16 GiB per chip, of which 0.31 GiB are parameters, moments and carried state; 11
all-gathers, 9 reduce-scatters, 9 all-reduces, none in a loop; 314 s to compile on two busy cores
(libtpu 0.0.42.1, jax 0.10.2). Speed and score are not measured: they need the TPU.
"""

from ml_collections import ConfigDict

from configs.common import sotu_bytes


def get_config() -> ConfigDict:
    """Return the config of configs/prernk.py with wider cell, larger batch and longer segments."""
    config = sotu_bytes(
        "prernk",
        learning_rate=1e-3,
        width=1024,
        hidden_size=2048,
        symbol_slots=32,
        relation_size=128,
        abstraction_sizes=(2048, 1024, 512),
        remat_chunk=32,
    )
    config.update(steps=20000, batch_size=256, seq_len=512)
    config.update(eval_every=1000, checkpoint_every=1000, log_every=50)
    config.update(dtype="bfloat16", parallel="shard_map", mesh={"fsdp": 4, "tensor": 1})
    config.optimizer.update(warmup_steps=500, weight_decay=0.1, b2=0.95)
    return config
