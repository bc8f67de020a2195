"""Config fields `control.*`: the controller, off by default (SYSTEMS G-26, G-27, G-40..G-50)."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, check_values, positive, within


def _field(name, default, doc, check=None) -> Field:
    """All but the switch itself may change on resume."""
    return Field(name, default, doc, check, resume=True)


def _check(config: ConfigDict) -> None:
    if config.control.enabled and not config.eval_every:
        raise UserError("config.control.enabled: the controller needs validation, set eval_every")


# Shares are of the planned steps unless said otherwise.
GROUP = Group(
    "control",
    (
        Field("enabled", False, "Ask the controller after each validation."),
        _field(
            "start",
            0.1,
            "Share of the steps before which only the target loss is looked at.",
            within("[0, 1)"),
        ),
        _field(
            "min_delta",
            0.0,
            "Share by which a loss must fall below all before it to be a new minimum.",
            within("[0, 1)"),
        ),
        _field(
            "patience",
            4.0,
            "Typical improvement intervals without a new minimum, 3 to 5.",
            positive,
        ),
        _field(
            "overfit_rise",
            0.05,
            "Overfitting: rise above the best validation loss, as a share of it, 0.05 to 0.10.",
            positive,
        ),
        _field(
            "plateau",
            0.1,
            "Share of the steps without a new minimum that makes a plateau.",
            within("[0, 1)"),
        ),
        _field(
            "converged",
            0.2,
            "Share of the steps without a new minimum that makes a plateau final.",
            within("[0, 1)"),
        ),
        _field(
            "lr_cut",
            0.4,
            "Share by which the learning rate is lowered, 0.3 to 0.5.",
            within("(0, 1)"),
        ),
        _field(
            "hold",
            0.15,
            "Share of the steps to train after that before looking again, 0.1 to 0.2.",
            within("[0, 1)"),
        ),
        _field(
            "max_drops",
            2,
            "Lowered rates without a new minimum that end a run; 0 = never lower the rate.",
            at_least(0),
        ),
        _field("plateau_budget", 3, "Plateaus that a run may have, 2 to 3.", at_least(0)),
        _field("investigate", True, "Log a report on each plateau; for small models."),
        _field(
            "oscillation",
            0.5,
            "Nats; larger swings of validation loss about its trend are a red flag.",
            positive,
        ),
        _field(
            "early_epochs",
            5.0,
            "Epochs; validation loss that rises by overfit_rise before them is a red flag.",
            positive,
        ),
        _field("probe", "", "Validation metric, higher is better, that must not degrade."),
        _field("target_loss", 0.0, "Validation loss that ends the run; 0 = none.", at_least(0)),
        _field(
            "watch",
            False,
            "Inspect the components at each validation for red flags (monitor.py); without "
            "`enabled` they are only logged.",
        ),
    ),
    _check,
)

Settings = dataclasses.make_dataclass(
    "Settings",
    [(field.name, type(field.default), field.default) for field in GROUP.fields],
    frozen=True,
    namespace={
        "__doc__": "The values of `control.*`; see `GROUP` for their meaning.",
        "__post_init__": lambda self: check_values(GROUP, vars(self)),
    },
)
