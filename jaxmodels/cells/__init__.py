"""One recurrence a file. `CELLS` maps a name to (config class, cell class)."""

from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config
from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig

CELLS = {
    "rwkv7": (RWKV7Config, RWKV7Cell),
    "unified": (UnifiedConfig, UnifiedCell),
}
