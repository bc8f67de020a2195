"""One system a file. `MODELS` maps a name to (config class, model class, presets)."""

from jaxmodels.models import (
    groundthink,
    hrlm,
    hrlm_config,
    hrm,
    mamba,
    prernk,
    rwkv,
    stack,
    transformer,
)

MODELS = {
    "groundthink": (
        groundthink.GroundThinkConfig,
        groundthink.GroundThink,
        groundthink.PRESETS,
    ),
    "prernk": (prernk.PRERNKConfig, prernk.PRERNK, prernk.PRESETS),
    "rwkv": (rwkv.RWKVConfig, rwkv.RWKV, rwkv.PRESETS),
    "hrlm": (hrlm_config.HRLMConfig, hrlm.HRLM, hrlm_config.PRESETS),
    "hrm": (hrm.HRMGridConfig, hrm.HRMGrid, hrm.PRESETS),
    "mamba": (mamba.MambaConfig, mamba.Mamba, mamba.PRESETS),
    "transformer": (transformer.TransformerConfig, transformer.Transformer, transformer.PRESETS),
    "stack": (stack.StackConfig, stack.Stack, stack.PRESETS),
}
