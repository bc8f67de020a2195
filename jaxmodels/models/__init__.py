"""Models by name: `MODELS` maps a name to (config class, model class, presets)."""

from jaxmodels.models import groundthink, mamba, prernk, rwkv, stack, transformer
from jaxmodels.models.hft import config as hft_config
from jaxmodels.models.hft import model as hft
from jaxmodels.models.hrlm import config, model
from jaxmodels.models.rnk import config as rnk_config
from jaxmodels.models.rnk import model as rnk

MODELS = {
    "groundthink": (groundthink.GroundThinkConfig, groundthink.GroundThink, groundthink.PRESETS),
    "prernk": (prernk.PRERNKConfig, prernk.PRERNK, prernk.PRESETS),
    "rwkv": (rwkv.RWKVConfig, rwkv.RWKV, rwkv.PRESETS),
    "hft": (hft_config.HFTConfig, hft.HFT, hft_config.PRESETS),
    "hrlm": (config.HRLMConfig, model.HRLM, config.PRESETS),
    "hrm": (config.HRMGridConfig, model.HRLM, config.GRID_PRESETS),
    "mamba": (mamba.MambaConfig, mamba.Mamba, mamba.PRESETS),
    "transformer": (transformer.TransformerConfig, transformer.Transformer, transformer.PRESETS),
    "rnk": (rnk_config.RNKConfig, rnk.RNK, rnk_config.PRESETS),
    "stack": (stack.StackConfig, stack.Stack, stack.PRESETS),
}
