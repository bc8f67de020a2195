"""What a tokenizer does not know of texts: its share of their symbols, told and limited."""

from __future__ import annotations

from collections import Counter

from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.errors import UserError

SHOWN = 5  # symbols that a note shows


class Unknown:
    """Count of the symbols of some texts that a tokenizer does not know.

    Attributes:
      tokenizer: the tokenizer; its `unknown` says what a symbol is.
      count, total: unknown symbols, and all of them.
      symbols: how often each unknown symbol occurs, where that is counted.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.count = self.total = 0
        self.symbols: Counter[str] = Counter()

    def read(self, text: str) -> bool:
        """Count the characters of a text; return whether all are known."""
        symbols = self.tokenizer.unknown(text)
        self.total += len(text)
        self.count += sum(map(len, symbols))
        self.symbols.update(symbols)
        return not symbols

    @property
    def share(self) -> float:
        """Unknown symbols over all."""
        return self.count / max(self.total, 1)

    def notes(self, where: str) -> tuple[str, ...]:
        """Return a line on the unknown symbols of a text, called e.g. "the prompt"; () if none."""
        return (f"unknown to the tokenizer: {self._says(where)}",) if self.count else ()

    def check(self, where: str, limit: float) -> None:
        """Raise UserError if more than this share of the symbols is unknown."""
        if self.share > limit:
            raise UserError(
                f"config.data.tokenizer: {self.tokenizer.name!r} does not know {self._says(where)}"
                f", more than config.data.max_unused={limit:g}; use one that reads every text: "
                "bpe for questions, byte for running text"
            )

    def _says(self, where: str) -> str:
        shown = " ".join(repr(symbol) for symbol, _ in self.symbols.most_common(SHOWN))
        like = f", such as {shown}" if shown else ""
        return f"{self.count:,} of the {self.total:,} symbols ({self.share:.1%}) of {where}{like}"
