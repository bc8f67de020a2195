"""Plans of the probes, one per row of the table: task, sizes, recipe, and the measurement."""

import argparse
import dataclasses
import json
import math
import time
from typing import Any

import jax
from flax import nnx

from eval.probes.model import ProbeModel, equal_parameters, state_bytes
from eval.probes.training import SOLVED, Recipe, train_probe
from jaxmodels import count_parameters
from jaxmodels.cells import CELLS
from jaxmodels.cli import did_you_mean
from jaxmodels.data.synthetic import MAD, TASKS
from jaxmodels.errors import UserError

PARAMETERS = 40_000
# task -> (fields, step limit, rows per step). Rows are short with many questions, so that attention
# learns the task within the step limit; it would take many times as long on longer rows. S5 over
# two generators has 2^24 rows, so training and test rows hardly ever coincide.
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    "mqar": ({"seq_len": 40, "vocab_size": 32, "pairs": 5}, 1500, 32),
    "selective_copying": ({"seq_len": 40, "copies": 6}, 1000, 32),
    "induction": ({"seq_len": 32, "symbols": 8}, 1000, 32),
    "passkey": ({"seq_len": 48, "words": 4}, 1000, 32),
    "parity": ({"seq_len": 32}, 1000, 32),
    "relations": ({}, 1500, 32),
    "s5": ({"seq_len": 24, "moves": "generators"}, 1000, 40),
    "in_context_recall": ({"seq_len": 40}, 1000, 32),
    "fuzzy_recall": ({"seq_len": 48, "pairs": 4, "key_tokens": 2, "value_tokens": 2}, 1500, 32),
    "noisy_recall": ({"seq_len": 40, "noise_symbols": 8}, 1500, 32),
    "memorization": ({"seq_len": 32, "keys": 32}, 1000, 32),
    "compression": ({"seq_len": 25}, 1500, 32),
    "modular_arithmetic": ({"seq_len": 25}, 1000, 32),
    "adding": ({"seq_len": 24, "levels": 5}, 1000, 32),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of one row of the table: cell, task and training recipe."""

    cell: str
    task: str
    instance: Any
    recipe: Recipe
    parameters: int
    num_layers: int

    @property
    def settings(self) -> dict[str, Any]:
        """Everything else that the result depends on, in JSON form."""
        fields = {"task": dataclasses.asdict(self.instance), **dataclasses.asdict(self.recipe)}
        fields |= {"parameters": self.parameters, "num_layers": self.num_layers}
        return json.loads(json.dumps(fields))


def measure(plan: Plan, on_steps=None) -> dict[str, Any]:
    """Train and test the models of a plan; return the row."""
    start, task, recipe = time.perf_counter(), plan.instance, plan.recipe
    config = equal_parameters(
        plan.cell, task.vocab_size, task.seq_len, plan.parameters, plan.num_layers
    )
    outcome = train_probe(task, config, recipe, on_steps)
    model = jax.eval_shape(lambda: ProbeModel(config, rngs=nnx.Rngs(0)))
    jax.clear_caches()  # the next row compiles another program
    return {
        "cell": plan.cell,
        "task": plan.task,
        "accuracy": [float(x) for x in outcome.accuracy],
        "chance": task.chance,
        "whole_rows": [float(x) for x in outcome.whole],
        "state_bytes": state_bytes(model),
        "parameters": count_parameters(model),
        "width": config.width,
        "hidden": config.hidden,
        "learning_rate": recipe.learning_rates[outcome.best],
        "validation": {
            f"{rate:g}": [float(x) for x in scores]
            for rate, scores in zip(recipe.learning_rates, outcome.valid, strict=True)
        },
        "diverged": sum(not math.isfinite(x) for x in outcome.loss),
        "steps": outcome.steps,
        "tokens": outcome.steps * recipe.batch_size * task.seq_len,
        "solved": bool(outcome.valid[outcome.best].min() >= SOLVED),
        "seconds": round(time.perf_counter() - start, 1),
        "settings": plan.settings,
    }


def make_plans(flags: argparse.Namespace) -> list[Plan]:
    """Return the plans of the rows that the command line requests.

    Raises:
      UserError: an unknown cell, task or field, or an invalid value.
    """
    for name in flags.cells:
        if name not in CELLS:
            raise UserError(f"--cells: unknown cell {name!r}{did_you_mean(name, CELLS)}")
    tasks = [name for word in flags.tasks for name in (MAD if word == "mad" else (word,))]
    for name in tasks:
        if name not in TASKS:
            raise UserError(f"--tasks: unknown task {name!r}{did_you_mean(name, TASKS)}")
    changes = {name: dict(SIZES[name][0]) for name in TASKS}
    for text in flags.set:
        task, field, value = _assignment(text)
        changes[task][field] = value
    plans = []
    for name in dict.fromkeys(tasks):
        instance = TASKS[name](**changes[name])
        _, steps, rows = SIZES[name]
        recipe = Recipe(
            steps if flags.steps is None else flags.steps,
            rows if flags.batch_size is None else flags.batch_size,
            tuple(flags.learning_rates),
            flags.seeds,
        )
        for cell in dict.fromkeys(flags.cells):
            equal_parameters(  # fail before training anything
                cell, instance.vocab_size, instance.seq_len, flags.parameters, flags.layers
            )
            plans.append(Plan(cell, name, instance, recipe, flags.parameters, flags.layers))
    return plans


def _assignment(text: str) -> tuple[str, str, Any]:
    """Parse "mqar.pairs=4" into ("mqar", "pairs", 4)."""
    path, equals, value = text.partition("=")
    task, dot, field = path.partition(".")
    if not (equals and dot):
        raise UserError(f"--set {text}: expected TASK.FIELD=VALUE, e.g. --set mqar.pairs=16")
    if task not in TASKS:
        raise UserError(f"--set {text}: unknown task {task!r}{did_you_mean(task, TASKS)}")
    names = [f.name for f in dataclasses.fields(TASKS[task])]
    if field not in names:
        raise UserError(f"--set {text}: {task} has no field {field!r}{did_you_mean(field, names)}")
    try:
        return task, field, json.loads(value)
    except ValueError:
        return task, field, value
