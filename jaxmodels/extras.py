"""Optional dependencies, imported where they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from jaxmodels.errors import UserError

# distribution -> the extra of this package that installs it
EXTRAS = {"grain": "train", "safetensors": "convert", "tokenizers": "text"}


def import_extra(name: str) -> ModuleType:
    """Import a module of an optional dependency, e.g. "grain" or "safetensors.numpy".

    Raises:
      UserError: it is not installed or cannot be imported; names the extra to install.
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        state = "is not installed" if missing else f"cannot be imported ({error})"
        raise UserError(f"{package} {state}; pip install 'jaxmodels[{EXTRAS[package]}]'") from error
