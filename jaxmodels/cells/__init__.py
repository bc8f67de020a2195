"""One recurrence a file. `CELLS` maps a name to (config class, cell class)."""

from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig

CELLS = {"unified": (UnifiedConfig, UnifiedCell)}
