"""Training of probe models, vectorized over the seeds and learning rates of a cell and task."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eval.probes.model import ProbeConfig, ProbeModel
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten, unflatten
from train.optim.weight_decay import add_weight_decay, decay_factors

# Training seeds are 0, 1, 2, ...
VALID_SEED, TEST_SEED = 1_000_001, 1_000_002
ROWS, HELD_OUT, TESTS = 64, 4, 4  # 4 batches of 64 rows for validation, 4 times as many for test
STEPS_PER_CALL = 50
CALLS_PER_VALIDATION = 2
SOLVED = 0.995


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Training recipe of all cells.

    AdamW (0.9, 0.98), weight decay on kernels only, linear warm-up, cosine decay to a tenth,
    gradients clipped by their global norm.

    Attributes:
      steps: limit; training stops when the validation accuracy of all seeds at one rate is 0.995.
      batch_size: rows per step.
      learning_rates: peak rates; the best one is selected on validation rows.
      seeds: models per rate, which differ in initialization and training rows.
      warmup: length of the warm-up, a fraction of the steps.
      weight_decay: decoupled weight decay, multiplied by the learning rate.
      clip_norm: limit of a model's gradient norm.
    """

    steps: int
    batch_size: int
    learning_rates: tuple[float, ...] = (2e-3, 5e-3)
    seeds: int = 3
    warmup: float = 0.1
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self):
        for name in ("steps", "batch_size", "seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rates or min(self.learning_rates) <= 0.0:
            raise UserError(f"learning rates must be positive, got {self.learning_rates}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of `train_probe` for L learning rates and S seeds.

    Attributes:
      steps: training steps of each model.
      valid: accuracy on the validation rows (L, S).
      best: index of the learning rate with the best mean validation accuracy.
      accuracy: fraction of correct scored positions of the test rows (S,), at the best rate.
      whole: fraction of test rows without an error (S,).
      loss: training loss of the last steps (S,), nats per answer; NaN or Inf if it diverged.
    """

    steps: int
    valid: np.ndarray
    best: int
    accuracy: np.ndarray
    whole: np.ndarray
    loss: np.ndarray


def train_probe(
    task, config: ProbeConfig, recipe: Recipe, on_steps: Callable[[int, float], None] | None = None
) -> Outcome:
    """Train a model for each seed and learning rate, and test those of the best rate.

    Args:
      task: an instance of a class in `jaxmodels.data.synthetic.TASKS`.
      config, recipe: sizes and training recipe of the models.
      on_steps: called periodically with the steps done and the best validation accuracy.
    """
    program = _Program(config, recipe)
    seeds = range(recipe.seeds)
    state = program.start(jnp.arange(recipe.seeds))
    rates = jnp.asarray(recipe.learning_rates)
    held_out = _batches(task, VALID_SEED, 0, HELD_OUT, ROWS)
    valid, done, calls = np.zeros((len(rates), recipe.seeds)), 0, 0
    while done < recipe.steps:
        count = min(STEPS_PER_CALL, recipe.steps - done)
        rows = [_batches(task, seed, done, count, recipe.batch_size) for seed in seeds]
        state, losses = program.steps(state, jax.tree.map(lambda *x: np.stack(x), *rows), rates)
        done, calls = done + count, calls + 1
        if calls % CALLS_PER_VALIDATION == 0 or done == recipe.steps:
            valid = np.asarray(program.score(state[0], held_out)[0])
            if valid.min(1).max() >= SOLVED:
                break
        if on_steps is not None:
            on_steps(done, float(valid.mean(1).max()))
    best = int(valid.mean(1).argmax())
    # In parts of the size of `held_out`, to reuse its compiled program.
    tests = [_batches(task, TEST_SEED, HELD_OUT * i, HELD_OUT, ROWS) for i in range(TESTS)]
    scores = np.mean([program.score(state[0], test) for test in tests], 0)
    accuracy, whole = scores[:, best]
    return Outcome(done, valid, best, accuracy, whole, np.asarray(losses)[best].mean(-1))


class _Program:
    """Compiled functions. States have leading axes (rates, seeds), batches of rows (seeds,)."""

    def __init__(self, config: ProbeConfig, recipe: Recipe):
        def new(seed) -> ProbeModel:
            return ProbeModel(config, rngs=nnx.Rngs(jax.random.key(seed)))

        template = jax.eval_shape(new, 0)
        rates = len(recipe.learning_rates)
        warmup = max(1, round(recipe.warmup * recipe.steps))
        schedule = optax.warmup_cosine_decay_schedule(
            1.0 / warmup, 1.0, warmup, max(recipe.steps, warmup + 1), 0.1
        )
        optimizer = optax.chain(
            optax.clip_by_global_norm(recipe.clip_norm),
            optax.scale_by_adam(0.9, 0.98),
            add_weight_decay(recipe.weight_decay, decay_factors(template)),
        )

        def start(seed):
            params = flatten(new(seed))
            return params, optimizer.init(params), jnp.zeros((), jnp.int32)

        def start_all(seeds):
            state = jax.vmap(start)(seeds)
            return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (rates, *x.shape)), state)

        def logits_of(params, inputs):
            model = unflatten(template, params)
            # The only reset of a row is at its start.
            return model(model.initial_state(inputs.shape[0]), inputs)[1]

        def loss_of(params, batch):
            logits = logits_of(params, batch["inputs"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
            return jnp.sum(losses * batch["weights"]) / jnp.sum(batch["weights"])

        def step(state, batch, rate):
            params, moments, count = state
            loss, grads = jax.value_and_grad(loss_of)(params, batch)
            updates, moments = optimizer.update(grads, moments, params)
            scale = -rate * schedule(count)
            params = jax.tree.map(lambda p, u: p + scale * u, params, updates)
            return (params, moments, count + 1), loss

        def steps(state, batches, rate):
            return jax.lax.scan(lambda s, batch: step(s, batch, rate), state, batches)

        def score(params, batches):
            def body(_, batch):
                right = jnp.argmax(logits_of(params, batch["inputs"]), -1) == batch["targets"]
                scored = batch["weights"] > 0.0
                whole = jnp.all(right | ~scored, -1)
                return None, (jnp.sum(right & scored) / jnp.sum(scored), jnp.mean(whole))

            _, scores = jax.lax.scan(body, None, batches)
            return jax.tree.map(jnp.mean, scores)

        def over_models(function, *, rates, seeds):
            return jax.jit(jax.vmap(jax.vmap(function, seeds), rates))

        self.start = jax.jit(start_all)
        self.steps = over_models(steps, seeds=(0, 0, None), rates=(0, None, 0))
        self.score = over_models(score, seeds=(0, None), rates=(0, None))


def _batches(task, seed: int, first: int, count: int, rows: int) -> dict[str, np.ndarray]:
    """Stack batches first .. first + count - 1 of a seed; each field is (count, rows, time)."""
    batches = [task.batch(seed, index, rows) for index in range(first, first + count)]
    fields = ("inputs", "targets", "weights")
    return {name: np.stack([batch[name] for batch in batches]) for name in fields}
