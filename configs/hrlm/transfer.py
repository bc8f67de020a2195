"""How quickly HRLM adapts to a new task or language (docs/systems.md, L-79).

    python -m train --config=configs/hrlm/transfer.py --workdir=runs/transfer_base
    python -m eval.sweep --config=configs/hrlm/transfer.py --workdir=runs/transfer [--preset smoke]

The first command trains on English-Spanish templates and facts, letter by letter: Latin characters,
so that the vocabulary is the same for every task. The sweep learns other tasks from few examples,
from the weights of that run and from scratch: objects as sentences, and corrected grammar; with
--preset language --data pairs.tsv, a language of your own. "smoke": two steps.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import answers_sweep, choose_preset, wrong
from configs.hrlm.translate import get_config as translate

BASE = "runs/transfer_base"
TASKS = {"objects": "json_sentence", "grammar": "grammar"}
EXAMPLES = 400  # of a new task, over all splits
STEPS = {"cpu": 400, "language": 400, "smoke": 2}


def get_config() -> ConfigDict:
    """Return the config of the base: 2,000 steps on translation and facts, letter by letter."""
    config = translate()
    config.update({"seq_len": 160, "batch_size": 32})
    config.data.update({"tokenizer": "answer_char", "skip_long": True, "examples": 700})
    config.data.tasks = ("translation", "factual")
    return config


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return each new task from the base's weights and from scratch."""
    steps = choose_preset(STEPS, preset)
    config = get_config()
    config.data.examples = EXAMPLES
    tasks: dict[str, dict[str, Any]] = {
        name: {"data.tasks": (task,)} for name, task in TASKS.items()
    }
    if preset == "language":
        tasks = {"language": {"data.format": "pairs", "data.tasks": ()}}
    if preset == "smoke":
        config.update({"batch_size": 8})
        config.model_config.update({"width": 16, "head_size": 8, "mlp_multiple": 8})
    entries, questions = {}, {}
    for name, fields in tasks.items():
        scratch, moved = f"{name} from scratch", f"{name} from the base"
        entries[scratch] = {"says": "random weights", "changes": fields}
        entries[moved] = {"says": "weights of the base", "changes": fields | {"init_from": BASE}}
        questions[name] = (moved, scratch, f"Do weights of the base help to learn {name}?")
    sweep = answers_sweep(config, steps, entries, questions)
    return sweep | {"measure": wrong("answers")}
