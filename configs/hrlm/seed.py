"""HRLM's own recipe: hrlm_v1.yaml and cfg_text_pretrain.yaml (docs/systems.md, L-08, L-52).

    python -m train --config=configs/hrlm/seed.py --workdir=runs/seed

For accelerators: 86 million parameters, and a warm-up of 10,000 steps to a learning rate of 1e-5.
The source's sizes: --config.model=hrlm/base, /intermediate, /advanced with batch size 16, 32, 64,
length 256, 512, 1024 and learning rate 5e-5, 1e-5, 5e-6 (L-09 to L-11). Tuned for two cores
instead: configs/hrlm/translate.py.
"""

from ml_collections import ConfigDict

from configs.hrlm import translate


def get_config() -> ConfigDict:
    """Return the config: 100,000 steps on characters, AdamW, no weight averaging.

    The source counts epochs but does not define one.
    """
    config = translate.get_config()
    config.model, config.model_config = "hrlm/v1", ConfigDict()
    config.update({"steps": 100_000, "batch_size": 32, "seq_len": 1024, "dtype": "bfloat16"})
    config.update({"eval_every": 5000, "checkpoint_every": 5000, "log_every": 100})
    config.optimizer.update({"learning_rate": 1e-5, "final_fraction": 0.1, "warmup_steps": 10_000})
    config.optimizer.update({"weight_decay": 0.01, "ema_decay": 0.0})
    config.optimizer.update({"sign_rate": 0.0, "sign_decay": 0.0})
    config.data.tokenizer = "answer_char"
    return config
