"""One system a file. `MODELS` maps a name to (config class, model class, presets)."""

from jaxmodels.models import prernk

MODELS = {"prernk": (prernk.PRERNKConfig, prernk.PRERNK, prernk.PRESETS)}
