"""What the rules of `labels.py` do: `python -m jaxmodels.data.chat.report [NAME or FILE ...]`.

Prints the share of each intent in each source, by default the corpora `DEFAULT`; for chatterbot
also the intents by rule against its categories, where their name tells the intent.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from jaxmodels import cli
from jaxmodels.data.chat.conversation import exchanges_of
from jaxmodels.data.chat.corpora import CORPORA, read_chat, read_corpora
from jaxmodels.data.chat.exchange import Exchange
from jaxmodels.data.chat.labels import INTENTS

DEFAULT = ("chitchat", "chatterbot")
# file of chatterbot-corpus -> intent of its prompts
CATEGORIES = {
    "greetings": "greeting",
    "botprofile": "identity",
    "trivia": "fact",
    "science": "fact",
    "history": "fact",
    "computers": "fact",
}
NAMES = (*INTENTS, "")


def confusion(exchanges: Iterable[Exchange]) -> dict[str, dict[str, int]]:
    """Return category -> intent by rule -> number, for chatterbot's categories in `CATEGORIES`."""
    table: dict[str, dict[str, int]] = {}
    for x in exchanges:
        corpus, _, category = x.source.partition("/")
        if corpus == "chatterbot" and category in CATEGORIES:
            row = table.setdefault(category, dict.fromkeys(NAMES, 0))
            row[x.intent] += 1
    return table


def agreement(table: Mapping[str, Mapping[str, int]]) -> float:
    """Return the fraction of a confusion's exchanges with the intent of their category."""
    right = sum(row[CATEGORIES[category]] for category, row in table.items())
    return right / sum(sum(row.values()) for row in table.values())


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))


def _shares(source: str, exchanges: Sequence[Exchange]) -> list[str]:
    counts = Counter(x.intent for x in exchanges)
    shares = [f"{counts[name] / len(exchanges):.2%}" for name in NAMES]
    answered = sum(bool(x.answerable) for x in exchanges) / len(exchanges)
    return [source, f"{len(exchanges):,}", *shares, f"{answered:.2%}"]


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Print the tables."""
    parser = cli.parser("jaxmodels.data.chat.report", __doc__)
    names = ", ".join(CORPORA)
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help=f"{names}, or a file")
    sources = parser.parse_args(arguments).sources or DEFAULT
    shares, table = [], {}
    for source in sources:
        read = read_corpora if source in CORPORA else read_chat
        exchanges = [x for c in read([source]) for x in exchanges_of(c, 0)]
        shares.append(_shares(source, exchanges))
        table |= confusion(exchanges)
    intents = [name or "none" for name in NAMES]
    print(to_markdown(["source", "exchanges", *intents, "answered"], shares))
    if table:
        rows = [[f"{c} ({CATEGORIES[c]})", *map(str, row.values())] for c, row in table.items()]
        print(f"\nchatterbot: {agreement(table):.1%} have the intent of their category\n")
        print(to_markdown(["category", *intents], rows))


if __name__ == "__main__":
    sys.exit(main())
