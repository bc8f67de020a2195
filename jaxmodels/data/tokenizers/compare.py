"""`python -m jaxmodels.data.tokenizers.compare SOURCE ...`: compare tokenizers on the same pairs.

Sources as in `jaxmodels/data/build.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels import cli
from jaxmodels.data.pairs.rows import Pair, texts_of
from jaxmodels.data.tasks.sources import pairs_of_sources
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.byte_word import WordTokenizer
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS, fit_tokenizer
from jaxmodels.data.tokenizers.special import UNK
from jaxmodels.errors import UserError

UNKNOWN = {"answer_char": UNK, "hybrid": UNK, "bpe": UNK, "word": WordTokenizer.UNK}
HEADER = "tokenizer | vocab | tokens mean | 95 % | unknown | parameters | lossless".split(" | ")


@dataclass(frozen=True)
class TokenizerRow:
    """Measurements of one tokenizer.

    Attributes:
      name: name in the table.
      vocab_size: V.
      mean_tokens: mean tokens of question and answer together, without SEP and EOS.
      p95_tokens: 95th percentile of the same.
      unknown: fraction of tokens that are UNK.
      parameters: 2 * V * width, in the embedding and the output head.
      lossless: fraction of questions and answers that decode to the encoded text.
    """

    name: str
    vocab_size: int
    mean_tokens: float
    p95_tokens: int
    unknown: float
    parameters: int
    lossless: float


def compare_tokenizers(
    pairs: Sequence[Pair], tokenizers: Mapping[str, Tokenizer], width: int
) -> list[TokenizerRow]:
    """Measure each tokenizer; return one row each, in order.

    Args:
      pairs: held-out texts: on training texts, fitted tokenizers look too good.
      tokenizers: tokenizers by their name in the table.
      width: width of the model.
    """
    if not pairs:
        raise UserError("pairs: must not be empty")
    if width < 1:
        raise UserError(f"width must be positive, got {width}")
    rows = []
    for name, tokenizer in tokenizers.items():
        lengths, unknown, kept = [], 0, 0
        for pair in pairs:
            texts = (pair.question, pair.answer)
            ids = [tokenizer.encode(text) for text in texts]
            lengths.append(sum(map(len, ids)))
            unknown += sum(int(np.sum(i == UNKNOWN.get(tokenizer.name, -1))) for i in ids)
            kept += sum(tokenizer.decode(i) == text for i, text in zip(ids, texts, strict=True))
        rows.append(
            TokenizerRow(
                name=name,
                vocab_size=tokenizer.vocab_size,
                mean_tokens=float(np.mean(lengths)),
                p95_tokens=int(np.quantile(lengths, 0.95, method="inverted_cdf")),
                unknown=unknown / max(sum(lengths), 1),
                parameters=2 * tokenizer.vocab_size * width,
                lossless=kept / (2 * len(pairs)),
            )
        )
    return rows


def as_markdown(rows: Sequence[TokenizerRow]) -> str:
    """Format the rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
    for r in rows:
        lines.append(
            f"| {r.name} | {r.vocab_size:,} | {r.mean_tokens:.1f} | {r.p95_tokens} | "
            f"{r.unknown:.2%} | {r.parameters:,} | {r.lossless:.2%} |"
        )
    return "\n".join(lines)


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Print the table for the sources of a command line."""
    parser = cli.parser(
        "jaxmodels.data.tokenizers.compare",
        "Compare tokenizers, fitted on training pairs, on test pairs.",
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="task, file or folder")
    parser.add_argument("--width", type=int, default=512, help="width of the model (default 512)")
    parser.add_argument("--max-tokens", type=int, default=1000, help="vocabulary: hybrid, bpe")
    parser.add_argument("--count", type=int, default=1000, help="pairs per task")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling and splitting")
    args = parser.parse_args(arguments)
    train, test, split = pairs_of_sources(args.sources, count=args.count, seed=args.seed)
    texts = texts_of(train)
    fitted = {name: fit_tokenizer(name, texts, args.max_tokens) for name in TEXT_TOKENIZERS}
    table = as_markdown(compare_tokenizers(test, fitted, args.width))
    print(f"{len(test):,} test pairs, split {split}, width {args.width}\n\n{table}")


if __name__ == "__main__":
    sys.exit(main())
