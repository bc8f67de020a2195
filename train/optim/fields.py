"""Config fields `optimizer.*`."""

import math

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, free, non_negative_finite, one_of, within

OPTIMIZERS = ("adamw", "adam_atan2", "lion", "muon")
SCHEDULES = ("constant", "cosine", "linear", "wsd")


_FACTOR = "Warm-up over that of a transformer of the same size, 1 to 4; sets warmup_steps; 0 = off."


def _factor(value: float) -> str:
    return "" if value == 0 or 1 <= value <= 4 else f"must be 0 or in [1, 4], got {value}"


def _check(config: ConfigDict) -> None:
    if config.optimizer.warmup_steps >= config.steps:
        raise UserError(
            f"config.optimizer.warmup_steps: {config.optimizer.warmup_steps} steps of warm-up do "
            f"not fit in {config.steps} steps; lower it or raise --config.steps"
        )


def suggested_warmup(parameters: int, steps: int, factor: float = 3.0) -> int:
    """Return the warm-up steps for a recurrent hybrid with this many parameters (G-22).

    `factor`, 2 to 4, times a transformer's warm-up of 667 sqrt(parameters / 125M) steps. Factor 3
    gives the source's settings, 2000 at 125M and about 500 at 11M. Capped at a tenth of the run,
    which did better there than half of it.
    """
    transformer = 667.0 * math.sqrt(parameters / 125e6)
    return max(1, min(round(factor * transformer), steps // 10))


GROUP = Group(
    "optimizer",
    (
        Field("name", "adamw", f"One of {', '.join(OPTIMIZERS)}.", one_of(OPTIMIZERS)),
        free("learning_rate", 3e-3, "Peak learning rate.", non_negative_finite),
        free("schedule", "cosine", f"One of {', '.join(SCHEDULES)}.", one_of(SCHEDULES)),
        free("warmup_steps", 0, "Steps of linear warm-up.", at_least(0)),
        free("warmup_factor", 0.0, _FACTOR, _factor),
        free(
            "final_fraction", 0.0, "Learning rate at the last step / peak rate.", within("[0, 1]")
        ),
        free("decay_fraction", 0.2, "Fraction of steps in `wsd` decay.", within("[0, 1]")),
        free(
            "weight_decay",
            0.0,
            "Decoupled weight decay of matrices, but for gates and step sizes.",
            at_least(0),
        ),
        free("b1", 0.9, "Decay of the first moment.", within("[0, 1)")),
        free("b2", 0.99, "Decay of the second moment.", within("[0, 1)")),
        free("eps", 1e-8, "Added to Adam's denominator.", at_least(0)),
        free("clip_norm", 1.0, "Limit of the global gradient norm; 0 = no clipping.", at_least(0)),
        free("accumulate", 1, "Micro-batches per step; their gradients are summed.", at_least(1)),
        Field("ema_decay", 0.0, "Decay of the parameters' EMA; 0 = off.", within("[0, 1)")),
        Field("sign_rate", 1e-2, "Peak rate of parameters trained by sign descent.", at_least(0)),
        Field("sign_decay", 0.1, "Weight decay of those parameters.", at_least(0)),
        free("groups", {}, "Learning-rate multiplier by parameter group (param_groups.py)."),
        free("group_clip", {}, "Limit of the gradient norm by parameter group."),
        Field("freeze", {}, "Step until which a parameter group is frozen; -1 = throughout."),
    ),
    _check,
)
