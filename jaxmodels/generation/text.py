"""Text of tokens that arrive in pieces, up to a stop string."""

from collections.abc import Sequence

from jaxmodels.errors import UserError

MOST_STOPS = 16


def checked_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return stop strings as a tuple; raise UserError for an empty one or too many."""
    if stop is not None and not isinstance(stop, Sequence):
        raise UserError(f"stop={stop!r}: give strings of one character or more")
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MOST_STOPS:
        raise UserError(f"stop: {len(stops)} strings; give at most {MOST_STOPS}")
    for text in stops:
        if not isinstance(text, str) or not text:
            raise UserError(f"stop={text!r}: give strings of one character or more")
    return stops


class StopFinder:
    """Text up to the first stop string, which may be spread over pieces.

    Attributes:
      found: whether a stop string has come; what follows it is dropped.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops, self._held, self.found = tuple(stops), "", False

    def push(self, text: str) -> str:
        """Return the text that is certain to come before a stop string."""
        if self.found:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                self._held = text[-size:]
                return text[:-size]
        self._held = ""
        return text

    def finish(self) -> str:
        """Return what is held back, which no stop string follows any more."""
        text, self._held = self._held, ""
        return text


class TextOf:
    """Text of a request's tokens, without broken characters, up to a stop string.

    Args:
      tokenizer: see `jaxmodels.data.tokenizers.base`.
      context: ids before the drawn ones: the text continues theirs.
      stops: strings that end it.
      each: give the text token by token, also where there is no stop string to look for.
    """

    def __init__(self, tokenizer, context=(), stops: Sequence[str] = (), *, each: bool = False):
        self._stream = tokenizer.stream(context)
        self._finder = StopFinder(stops)
        self._each = each or bool(stops)

    def push(self, tokens: list[int]) -> tuple[list[str], int | None]:
        """Return (pieces of certain text, tokens up to the end of a stop string or None)."""
        if not self._each:
            return [self._stream.push(tokens)], None
        pieces = []
        for count, token in enumerate(tokens, 1):
            pieces.append(self._finder.push(self._stream.push([token])))
            if self._finder.found:
                return pieces, count
        return pieces, None

    def finish(self) -> tuple[str, bool]:
        """Return (the rest, whether a stop string was in it)."""
        text = self._finder.push(self._stream.finish())
        return text + self._finder.finish(), self._finder.found
