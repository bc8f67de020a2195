"""Config fields `tune.*`."""

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, free, non_negative_finite, one_of

KINDS = ("state", "lora")


def _check(config: ConfigDict) -> None:
    tune = config.tune
    if tune.base and not tune.kind:
        raise UserError(
            f"config.tune.kind: say what to learn on {tune.base}, one of {', '.join(KINDS)}"
        )
    if tune.kind and not tune.base:
        raise UserError(
            "config.tune.base: name the model to tune, the folder of a run or of jaxmodels.convert"
        )
    if tune.kind and config.init_from:
        raise UserError("config.init_from: the weights of a tuned model are those of tune.base")


GROUP = Group(
    "tune",
    (
        free("base", "", "Folder of a run, or of jaxmodels.convert, whose model is tuned."),
        Field("kind", "", f"What is learned: {' or '.join(KINDS)}.", one_of(("", *KINDS))),
        Field("rank", 8, "lora: rank of the additions.", at_least(1)),
        Field("alpha", 16.0, "lora: additions are scaled by alpha / rank.", non_negative_finite),
        Field("targets", (), "lora: matrices by name, as 'key,value,time/*'; () = all of layers."),
        Field("fingerprint", "", "SHA-256 of the base; a run fills it in."),
    ),
    _check,
)
