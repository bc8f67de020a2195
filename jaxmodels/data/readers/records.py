"""What a reader gives: text and labelled spans of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Span = tuple[int, int, int]  # first byte, byte after the last, label


@dataclass(frozen=True)
class Record:
    """A document before tokenisation.

    Attributes:
      name: file and, if it holds several documents, line or key.
      text: UTF-8 bytes.
      spans: label name -> spans of bytes; bytes outside all spans have no label.
    """

    name: str
    text: bytes
    spans: Mapping[str, Sequence[Span]] = field(default_factory=dict)

    def slice(self, start: int, stop: int, suffix: str) -> Record:
        """Bytes [start, stop) as a record of their own."""
        spans = {
            name: [
                (max(a, start) - start, min(b, stop) - start, value)
                for a, b, value in spans
                if a < stop and b > start
            ]
            for name, spans in self.spans.items()
        }
        return Record(f"{self.name}:{suffix}", self.text[start:stop], spans)
