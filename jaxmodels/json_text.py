"""JSON from files that anybody may have written."""

import json
from typing import Any


def decode_json(text: str | bytes, **options) -> Any:
    """Return the value of a JSON text; `options` of `json.loads`.

    Raises:
      ValueError: no JSON, or nested more deeply than Python can follow.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
