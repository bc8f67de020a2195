"""Cells by name: `CELLS` maps a name to (config class, cell class).

`hrm` is not in `CELLS`, because it recurs in depth, not over time.
"""

from jaxmodels.cells.attention import AttentionCell, AttentionConfig
from jaxmodels.cells.gated_delta import GatedDeltaCell, GatedDeltaConfig
from jaxmodels.cells.grounded_gla import GroundedGLACell, GroundedGLAConfig
from jaxmodels.cells.gru import GRUCell, GRUConfig
from jaxmodels.cells.hybrid import HybridCell, HybridConfig
from jaxmodels.cells.mamba1 import Mamba1Cell, Mamba1Config
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.cells.rwkv4 import RWKV4Cell, RWKV4Config
from jaxmodels.cells.rwkv6 import RWKV6Cell, RWKV6Config
from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config
from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig

CELLS = {
    "attention": (AttentionConfig, AttentionCell),
    "gated_delta": (GatedDeltaConfig, GatedDeltaCell),
    "grounded_gla": (GroundedGLAConfig, GroundedGLACell),
    "gru": (GRUConfig, GRUCell),
    "hybrid": (HybridConfig, HybridCell),
    "mamba1": (Mamba1Config, Mamba1Cell),
    "mamba2": (Mamba2Config, Mamba2Cell),
    "rwkv4": (RWKV4Config, RWKV4Cell),
    "rwkv6": (RWKV6Config, RWKV6Cell),
    "rwkv7": (RWKV7Config, RWKV7Cell),
    "unified": (UnifiedConfig, UnifiedCell),
}
