"""Config fields `control.*`: the controller (docs/systems.md, G-26 to G-50), off by default."""

import dataclasses

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, free, positive, within


def _check(config: ConfigDict) -> None:
    if config.control.enabled and not config.eval_every:
        raise UserError("config.control.enabled: the controller needs validation; set eval_every")


# Fractions are of the planned steps unless stated otherwise; minima are of validation loss.
_SHARE, _COUNT = within("[0, 1)"), at_least(0)
GROUP = Group(
    "control",
    (
        Field("enabled", False, "Run the controller after each validation."),
        free("start", 0.1, "Fraction before which only the target loss counts.", _SHARE),
        free("min_delta", 0.0, "Relative improvement that makes a new minimum.", _SHARE),
        free("patience", 4.0, "Improvement intervals without a new minimum, 3 to 5.", positive),
        free("overfit_rise", 0.05, "Relative rise above the best loss, 0.05 to 0.10.", positive),
        free("plateau", 0.1, "Fraction without a new minimum that makes a plateau.", _SHARE),
        free("converged", 0.2, "Fraction without a new minimum that makes it final.", _SHARE),
        free("lr_cut", 0.4, "Relative cut of the learning rate, 0.3 to 0.5.", within("(0, 1)")),
        free("hold", 0.15, "Fraction to train after a cut before rechecking, 0.1 to 0.2.", _SHARE),
        free("max_drops", 2, "Fruitless cuts that end a run; 0 = never cut.", _COUNT),
        free("plateau_budget", 3, "Plateaus allowed per run, 2 to 3.", _COUNT),
        free("investigate", True, "Log a report on each plateau; for small models."),
        free("oscillation", 0.5, "Nats; larger swings of the loss are a red flag.", positive),
        free("early_epochs", 5.0, "Epochs; overfitting before them is a red flag.", positive),
        free("probe", "", "Validation metric, higher is better, that must not degrade."),
        free("target_loss", 0.0, "Validation loss that ends the run; 0 = none.", _COUNT),
        free("watch", False, "Inspect the components for red flags (monitor.py)."),
    ),
    _check,
)

Settings = dataclasses.make_dataclass(
    "Settings",
    [(field.name, type(field.default), field.default) for field in GROUP.fields],
    frozen=True,
    namespace={"__doc__": "The values of `control.*`; see `GROUP` for their meaning."},
)
