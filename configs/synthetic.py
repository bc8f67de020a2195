"""Any left-to-right model of the zoo on any synthetic task (docs/systems.md, Z-13).

    python -m train --config=configs/synthetic.py --workdir=runs/mqar
    python -m train --config=configs/synthetic.py --workdir=runs/adding \
        --config.model=rwkv/7 --config.data.tasks=adding --config.data.task_fields.levels=5
    python -m eval --workdir=runs/mqar

Tasks: see jaxmodels/data/synthetic. Among them are the six of MAD (arXiv 2403.17844): in-context,
fuzzy and noisy recall, selective copying, memorization and compression. That one has an odd
seq_len; the seq_len of `relations` follows from its fields. Training rows never come twice, and
`python -m eval` tests on rows of another seed. `python -m eval.probes` compares cells on the tasks.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the config of the experiment."""
    return ConfigDict(
        {
            "model": "mamba",
            "model_config": {"width": 64},  # which every model has
            "steps": 1000,
            "batch_size": 32,
            "seq_len": 40,
            "eval_every": 100,
            "checkpoint_every": 500,
            "optimizer": {"learning_rate": 5e-3, "warmup_steps": 100, "weight_decay": 0.1},
            "data": {
                "format": "synthetic",
                "tasks": ("mqar",),
                "task_fields": {},
                "tokenizer": "ids",
                "carry_state": False,
                "eval_tokens": 10_240,
            },
        }
    )
