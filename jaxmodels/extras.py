"""Imports of optional dependencies."""

from __future__ import annotations

import importlib
from types import ModuleType

from jaxmodels.errors import UserError

# package -> extra of this distribution that installs it
EXTRAS = {
    "gguf": "gguf",
    "grain": "train",
    "jinja2": "text",
    "jsonschema": "serve",
    "lm_eval": "lm_eval",
    "prometheus_client": "serve",
    "safetensors": "convert",
    "starlette": "serve",
    "tokenizers": "text",
    "uvicorn": "serve",
    "yaml": "corpus",
}


def import_extra(name: str) -> ModuleType:
    """Import a module of an optional dependency, e.g. "grain" or "safetensors.numpy".

    Raises:
      UserError: not installed or not importable; names the extra to install.
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        state = "is not installed" if missing else f"cannot be imported ({error})"
        raise UserError(f"{package} {state}; pip install 'jaxmodels[{EXTRAS[package]}]'") from error
