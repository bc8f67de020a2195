"""The tokenizer of a converted model: which files go beside the weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from jaxmodels.data.tokenizers.folder import check_size, files_in, files_of, read_tokenizer
from jaxmodels.errors import UserError


def files_for(source: str | Path, size: int) -> tuple[dict[str, str], str]:
    """Return (name -> text of the files of a tokenizer, a line on what they are).

    Args:
      source: what `read_tokenizer` reads.
      size: ids of the model.

    Raises:
      UserError: there is none, it is damaged, or it has more ids than the model.
    """
    tokenizer = read_tokenizer(source)
    files = files_of(tokenizer, source)
    note = check_size(tokenizer, size, str(source))
    return files, _says(files, note or f"the tokenizer has {size:,} ids, as the model")


def files_of_source(folder: Path, size: int) -> tuple[dict[str, str], str]:
    """Return the same for the folder of a model, as they are if `tokenizers` is not installed."""
    if importlib.util.find_spec("tokenizers"):
        return files_for(folder, size)
    files = files_in(folder)
    return files, _says(files, "copied unread; 'jaxmodels[text]' would install tokenizers")


def ids_of(model) -> int:
    """Return the number of ids that a model reads; raise UserError if it reads none."""
    size = getattr(model.config, "vocab_size", 0)
    if not size:
        raise UserError(f"--tokenizer: a {type(model).__name__} reads no ids of a vocabulary")
    return size


def _says(files: dict[str, str], note: str) -> str:
    return f"{', '.join(sorted(files))}: {note}"
