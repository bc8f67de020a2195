"""Models by name: `MODELS` maps a name to (config class, model class, presets)."""

from jaxmodels.models import groundthink, mamba, prernk, rwkv, stack, transformer
from jaxmodels.models.hrlm import config, model

MODELS = {
    "groundthink": (groundthink.GroundThinkConfig, groundthink.GroundThink, groundthink.PRESETS),
    "prernk": (prernk.PRERNKConfig, prernk.PRERNK, prernk.PRESETS),
    "rwkv": (rwkv.RWKVConfig, rwkv.RWKV, rwkv.PRESETS),
    "hrlm": (config.HRLMConfig, model.HRLM, config.PRESETS),
    "hrm": (config.HRMGridConfig, model.HRLM, config.GRID_PRESETS),
    "mamba": (mamba.MambaConfig, mamba.Mamba, mamba.PRESETS),
    "transformer": (transformer.TransformerConfig, transformer.Transformer, transformer.PRESETS),
    "stack": (stack.StackConfig, stack.Stack, stack.PRESETS),
}
