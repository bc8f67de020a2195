"""The files of a tokenizer: read from where a user points, and written beside weights.

    tokenizer.json             of the library `tokenizers`, or what `Tokenizer.to_json` wrote
    tokenizer_config.json      special tokens by name, and a chat template
    special_tokens_map.json    special tokens by name, in older folders
    chat_template.jinja        a chat template, in newer folders
    generation_config.json     the ids and strings that end an answer

The names are those of transformers, so that either library reads the other's folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from jaxmodels.data.readers.files import json_document, read_text
from jaxmodels.data.tokenizers import rwkv_world
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.fit import tokenizer_from_json
from jaxmodels.errors import UserError
from jaxmodels.paths import is_dir, is_file, user_path

TOKENIZER, CONFIG, MAP = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE, GENERATION, MODEL = "chat_template.jinja", "generation_config.json", "config.json"
BESIDE = (CONFIG, MAP, TEMPLATE, GENERATION)  # files that travel with a tokenizer
DEFAULT = "byte"
NAMED = (rwkv_world.NAME,)  # tokenizers that a package ships
LARGEST = 256 << 20  # bytes of a file; the largest known vocabularies have 40 MB


def is_read(name: str) -> bool:
    """Return whether `data.tokenizer` names a tokenizer to read rather than one to fit."""
    place = os.sep in name or name.startswith("~") or name.endswith((".json", ".txt"))
    return place or name in NAMED


def read_tokenizer(name: str | Path) -> Tokenizer:
    """Read a tokenizer.

    Args:
      name: a tokenizer.json, a vocabulary of RWKV World, a folder with one of them, or one of
        `NAMED`.

    Raises:
      UserError: there is none, or it is damaged.
    """
    if name in NAMED:
        return rwkv_world.read_packaged()
    path = user_path(name)
    if is_dir(path):
        path = _file_in(path)
    elif not is_file(path):
        raise UserError(f"{path}: no such file or folder; give a {TOKENIZER} or its folder")
    if (size := os.path.getsize(path)) > LARGEST:
        raise UserError(f"{path}: {size:,} bytes are no tokenizer (at most {LARGEST:,})")
    text = read_text(path).decode("utf-8")
    try:
        if path.suffix == ".txt":
            return rwkv_world.RWKVWorldTokenizer(text)
        return tokenizer_from_json(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def files_of(tokenizer: Tokenizer, source: str | Path | None = None) -> dict[str, str]:
    """Return name -> text of the files to write beside weights, from which it is read back.

    Args:
      tokenizer: the tokenizer.
      source: where it was read, see `read_tokenizer`; None = fitted here, without files beside it.
    """
    if isinstance(tokenizer, rwkv_world.RWKVWorldTokenizer):
        files = {rwkv_world.FILE: tokenizer.vocabulary}
    else:
        files = {TOKENIZER: tokenizer.to_json()}
    if source is not None and source not in NAMED:
        files |= _beside(user_path(source))
    if rwkv_world.FILE in files and not files.keys() & {CONFIG, TEMPLATE}:
        files = rwkv_world.CHAT | files
    return files


def files_in(folder: Path) -> dict[str, str]:
    """Return name -> text of the files of a tokenizer in a folder, unread."""
    path = _file_in(folder)
    return {path.name: read_text(path).decode("utf-8")} | _beside(folder)


def has_tokenizer(path: Path) -> bool:
    """Return whether a path is a folder with a tokenizer that `read_tokenizer` reads."""
    return is_dir(path) and any(is_file(path / name) for name in (TOKENIZER, rwkv_world.FILE))


def check_size(tokenizer: Tokenizer, model: int, where: str) -> str:
    """Return what to tell of a model with an embedding of `model` ids, "" if they are as many.

    Raises:
      UserError: the tokenizer has more.
    """
    size = tokenizer.vocab_size
    if size > model:
        raise UserError(
            f"{where}: its tokenizer has {size:,} ids and the model only {model:,}; give the "
            "tokenizer that the model was trained with"
        )
    spare = f"{model - size:,} fewer than the model, whose others decode to no text"
    return f"the tokenizer has {size:,} ids, {spare}" if size < model else ""


def _file_in(folder: Path) -> Path:
    for name in (TOKENIZER, rwkv_world.FILE):
        if is_file(folder / name):
            return folder / name
    raise UserError(f"{folder}: no tokenizer in this folder ({TOKENIZER} or {rwkv_world.FILE})")


def _beside(source: Path) -> dict[str, str]:
    """Return name -> text of the files that travel with a tokenizer's file or folder.

    A folder of transformers may tell only in its config.json which ids end a text; then they go
    into the generation_config.json.
    """
    folder = source if is_dir(source) else source.parent
    found = {name: folder / name for name in BESIDE if is_file(folder / name)}
    files = {name: read_text(path).decode("utf-8") for name, path in found.items()}
    if GENERATION not in files and is_file(folder / MODEL):
        fields, _ = json_document(folder / MODEL, dict, "a model's config")
        if "model_type" in fields and fields.get("eos_token_id") is not None:
            files[GENERATION] = json.dumps({"eos_token_id": fields["eos_token_id"]}) + "\n"
    return files


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the text of each special token of a folder by its name, e.g. "eos_token".

    Raises:
      UserError: a token that is neither a text nor an object with one.
    """
    tokens = {}
    for path in (folder / MAP, folder / CONFIG):  # the latter counts
        for name, value in _fields(path).items():
            if not name.endswith("_token") or value is None or isinstance(value, bool):
                continue
            text = value.get("content") if isinstance(value, Mapping) else value
            if not isinstance(text, str):
                raise UserError(f"{path}: {name!r} is {value!r:.60}, expected a text")
            tokens[name] = text
    return tokens


def endings(folder: Path, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids and the strings that end an answer, () if the folder tells none.

    They are `eos_token_id` and `stop_strings` of generation_config.json, and the end-of-text token.

    Raises:
      UserError: a field has another type, or an id is not in the vocabulary.
    """
    path = folder / GENERATION
    fields = _fields(path)
    ids = fields.get("eos_token_id")
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    size = tokenizer.vocab_size
    for i in ids:
        if type(i) is not int or not 0 <= i < size:
            raise UserError(f"{path}: eos_token_id {i!r:.60} is no id of a vocabulary of {size:,}")
    strings = fields.get("stop_strings") or []
    strings = [strings] if isinstance(strings, str) else strings
    if not isinstance(strings, list) or not all(isinstance(text, str) and text for text in strings):
        raise UserError(f"{path}: stop_strings is {strings!r:.60}, expected texts")
    eos = special_tokens(folder).get("eos_token")
    token_id = getattr(tokenizer, "token_id", None)
    known = token_id(eos) if eos is not None and token_id else None
    return tuple(dict.fromkeys([*ids, *([] if known is None else [known])])), tuple(strings)


def _fields(path: Path) -> dict:
    return json_document(path, dict, "an object of settings")[0] if is_file(path) else {}
