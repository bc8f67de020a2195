"""Config fields `optimizer.*`."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, non_negative_finite, one_of, within

OPTIMIZERS = ("adamw", "adam_atan2", "lion", "muon")
SCHEDULES = ("constant", "cosine", "linear", "wsd")


def _check(config: ConfigDict) -> None:
    if config.optimizer.warmup_steps >= config.steps:
        raise UserError(
            f"config.optimizer.warmup_steps: {config.optimizer.warmup_steps} steps of warm-up do "
            f"not fit in {config.steps} steps; lower it or raise --config.steps"
        )


GROUP = Group(
    "optimizer",
    (
        Field("name", "adamw", f"One of {', '.join(OPTIMIZERS)}.", one_of(OPTIMIZERS)),
        Field("learning_rate", 3e-3, "Peak learning rate.", non_negative_finite, resume=True),
        Field(
            "schedule",
            "cosine",
            f"Shape of the learning rate over the run: {', '.join(SCHEDULES)}.",
            one_of(SCHEDULES),
            resume=True,
        ),
        Field("warmup_steps", 0, "Steps of linear warm-up.", at_least(0), resume=True),
        Field(
            "final_fraction",
            0.0,
            "Learning rate at the last step, as a share of the peak.",
            within("[0, 1]"),
            resume=True,
        ),
        Field(
            "decay_fraction",
            0.2,
            "Share of the steps in which `wsd` decays, at the end of the run.",
            within("[0, 1]"),
            resume=True,
        ),
        Field(
            "weight_decay",
            0.0,
            "Decoupled weight decay, of kernels only.",
            at_least(0),
            resume=True,
        ),
        Field("b1", 0.9, "Decay of the first moment.", within("[0, 1)"), resume=True),
        Field("b2", 0.99, "Decay of the second moment.", within("[0, 1)"), resume=True),
        Field("eps", 1e-8, "Added to Adam's denominator.", at_least(0), resume=True),
        Field(
            "clip_norm",
            1.0,
            "Bound of the global gradient norm; 0 = no clipping.",
            at_least(0),
            resume=True,
        ),
        Field(
            "accumulate",
            1,
            "Micro-batches in a step, whose gradients are summed.",
            at_least(1),
            resume=True,
        ),
        Field(
            "ema_decay",
            0.0,
            "Decay of the running average of the parameters; 0 = none is kept.",
            within("[0, 1)"),
        ),
        Field(
            "sign_rate",
            1e-2,
            "Peak learning rate of parameters that learn by sign descent (puzzle vectors).",
            at_least(0),
        ),
        Field("sign_decay", 0.1, "Weight decay of those parameters.", at_least(0)),
        Field(
            "groups",
            {},
            "Learning-rate multiplier by parameter group, see train/optim/param_groups.py.",
            resume=True,
        ),
        Field("group_clip", {}, "Bound of the gradient norm by parameter group.", resume=True),
        Field("freeze", {}, "Step until which a parameter group is frozen; -1 = throughout."),
    ),
    _check,
)
