"""Identity suite and mode collapse (V3_RESEARCH_NOTES 2.24 and 2.27 of GroundThink).

Measures whether a description of a speaker, a fact or a counterfact in the context influences the
output, by the probability of answers and by the source's rubric on generated text. Items are short
and hand-made; a model of a few million parameters is expected to be near chance.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from eval.diagnostics.reading import BLOCK, ROWS, excerpts, generate, read, token_losses

PERSONAS = {
    "Knight": (
        "You are a knight in armour, sworn to a lord.",
        "sword armour castle honour battle lord squire shield thee thou horse king".split(),
    ),
    "Scientist": (
        "You are a scientist at work in a laboratory.",
        "data experiment theory hypothesis measure observe analyse result test science".split(),
    ),
    "Pirate": (
        "You are a pirate, captain of a ship at sea.",
        "ship treasure captain sea plunder crew matey sail rum gold deck arr".split(),
    ),
}
NEUTRAL = "You are the one who speaks next in this text."
ASK = " Tell us of yourself.\nI speak of the "

# (text, right answer, wrong answer). Each pair occurs both ways, which cancels word frequencies.
TRACKING = (
    ("The ball is in the box. The cup is in the bag. The ball is in the ", "box", "bag"),
    ("The ball is in the bag. The cup is in the box. The ball is in the ", "bag", "box"),
    ("Ann has the key. Tom has the map. The key is with ", "Ann", "Tom"),
    ("Tom has the key. Ann has the map. The key is with ", "Tom", "Ann"),
    ("The ring was in the hall. He took the ring to the barn. The ring is in the ", "barn", "hall"),
    ("The ring was in the barn. He took the ring to the hall. The ring is in the ", "hall", "barn"),
)
COUNTERFACT = (
    ("In this land fire is cold and ice is hot. I touch the fire. It is ", "cold", "hot"),
    ("In this land fire is hot and ice is cold. I touch the fire. It is ", "hot", "cold"),
    ("In this land the sky is green and grass is blue. I look at the sky. It is ", "green", "blue"),
    ("In this land the sky is blue and grass is green. I look at the sky. It is ", "blue", "green"),
)
ANCHORS = ("Anne", "John", "Mary", "Hugh", "Jane", "Mark")
ANCHOR = "My name is "


def persona_score(text: str, persona: str) -> float:
    """Return the fraction of words that belong to the persona; 0 for no words."""
    words = [word.strip(".,;:!?'\"()[]-").lower() for word in text.split()]
    words = [word for word in words if word]
    vocabulary = set(PERSONAS[persona][1])
    return sum(word in vocabulary for word in words) / len(words) if words else 0.0


def log_probabilities(model, tokenizer, prompts: Sequence[str], answers: Sequence[str]):
    """Return log P(answer | prompt) in nats, float64 (n,)."""
    heads = [np.asarray(tokenizer.encode(p), np.int32) for p in prompts]
    tails = [np.asarray(tokenizer.encode(a), np.int32) for a in answers]
    whole = [np.concatenate(pair) for pair in zip(heads, tails, strict=True)]
    whole += whole[:1] * (-len(whole) % ROWS)
    rows = pad_left(tokenizer, whole, extra=1)
    scored = np.zeros((len(rows), rows.shape[1] - 1), bool)
    for mask, tail in zip(scored, tails, strict=False):
        mask[len(mask) - len(tail) :] = True
    sums = []
    for start in range(0, len(rows), ROWS):
        group = slice(start, start + ROWS)
        _, losses = token_losses(model, model.initial_state(ROWS), rows[group])
        sums.append(-(np.asarray(losses, np.float64) * scored[group]).sum(1))
    return np.concatenate(sums)[: len(prompts)]


def pad_left(tokenizer, texts: Sequence[np.ndarray], extra: int = 0) -> np.ndarray:
    """Stack texts as int32 (n, blocks x BLOCK + extra), padded left with line breaks or token 0."""
    longest = max(map(len, texts)) - extra
    width = longest + -longest % BLOCK + extra
    fill = np.asarray(tokenizer.encode("\n"), np.int32)
    rows = np.full((len(texts), width), fill[0] if len(fill) else 0, np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[width - len(text) :] = text
    return rows


def persona_lock(model, tokenizer) -> dict[str, float]:
    """Return by how many nats each description favours its own words over those of the others.

    Mean over its words of log P(word | description) - log P(word | neutral), minus the same over
    the other personas' words. 0 for a model that ignores the description.
    """
    texts = {name: description for name, (description, _) in PERSONAS.items()}
    words = [(name, word) for name, (_, words) in PERSONAS.items() for word in words]
    pairs = list(itertools.product([*texts.values(), NEUTRAL], [word for _, word in words]))
    prompts, answers = [text + ASK for text, _ in pairs], [word for _, word in pairs]
    table = log_probabilities(model, tokenizer, prompts, answers).reshape(len(texts) + 1, -1)
    shift = table[:-1] - table[-1:]
    own = np.array([[name == other for other, _ in words] for name in texts])
    return {
        name: float(row[mine].mean() - row[~mine].mean())
        for name, row, mine in zip(texts, shift, own, strict=True)
    }


def choices(model, tokenizer, items: Sequence[tuple[str, str, str]]) -> float:
    """Return the fraction of items whose right answer is more likely; chance is 1/2."""
    prompts = [text for text, _, _ in items for _ in range(2)]
    answers = [answer for _, right, wrong in items for answer in (right, wrong)]
    right, wrong = log_probabilities(model, tokenizer, prompts, answers).reshape(-1, 2).T
    return float((right > wrong).mean())


def anchor_items(tokenizer, noise, tokens: int = 500) -> list:
    """Return items that ask for a name stated `tokens` tokens before; the wrong one is the next."""
    text = excerpts(noise, len(ANCHORS), tokens, np.random.default_rng(0))
    following = [*ANCHORS[1:], ANCHORS[0]]
    return [
        (f"{ANCHOR}{name}. {tokenizer.decode(row)}\n{ANCHOR}", name, other)
        for name, other, row in zip(ANCHORS, following, text, strict=True)
    ]


def generate_text(model, tokenizer, prompts: Sequence[str], tokens: int) -> list[str]:
    """Continue each of up to ROWS prompts at temperature 0.8."""
    texts = [np.asarray(tokenizer.encode(p), np.int32) for p in prompts]
    rows = pad_left(tokenizer, texts + texts[:1] * (ROWS - len(texts)))
    state, logits = read(model, model.initial_state(ROWS), rows)
    free = np.full((ROWS, tokens), -1)
    samples = generate(model, state, logits, free, temperature=0.8)
    return [tokenizer.decode(row) for row in samples[: len(texts)]]


def identity_suite(model, tokenizer, noise, *, tokens: int = 200) -> dict:
    """Run the identity suite.

    Args:
        model, tokenizer: a language model and its tokenizer.
        noise: tokens that fill the gap of the long anchor.
        tokens: tokens generated per sample for the rubric, ten samples per persona.
    """
    times = ROWS // len(PERSONAS)
    prompts = [text + ASK for text, _ in PERSONAS.values() for _ in range(times)]
    texts = generate_text(model, tokenizer, prompts, tokens)
    scores = {}
    for index, persona in enumerate(PERSONAS):
        part = texts[index * times : (index + 1) * times]
        scores[persona] = {
            name: float(np.mean([persona_score(text, name) for text in part])) for name in PERSONAS
        }
    return {
        "rubric": scores,
        "persona_lock": persona_lock(model, tokenizer),
        "object_tracking": choices(model, tokenizer, TRACKING),
        "counterfact": choices(model, tokenizer, COUNTERFACT),
        "long_anchor": choices(model, tokenizer, anchor_items(tokenizer, noise)),
        "items": {"object_tracking": len(TRACKING), "counterfact": len(COUNTERFACT)}
        | {"long_anchor": len(ANCHORS)},
    }


def mode_collapse(table, probabilities, text: str) -> dict:
    """Detect signs of mode collapse.

    Args:
        table: embeddings (vocab, width).
        probabilities: (..., vocab), over some text.
        text: a generated sample.

    Returns:
        embedding_norm: Frobenius norm of the embedding table; flagged above 50.
        embedding_rms: root mean square of its entries, independent of its size.
        top_probability: mean probability of the most likely token; flagged above 0.95.
        confidence_ratio: mean top probability over mean entropy.
        distinct_words: distinct words / words of the sample; flagged below 0.3. (The source counts
            tokens, which is low for any text with a character tokenizer.)
        flags: names of the raised flags.
    """
    table, p = np.asarray(table, np.float64), np.asarray(probabilities, np.float64)
    norm, top = float(np.linalg.norm(table)), float(p.max(-1).mean())
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    entropy = float(-(p * logs).sum(-1).mean())
    words = text.split()
    distinct = len(set(words)) / len(words) if words else 0.0
    flags = {
        "embedding norm": norm > 50.0,
        "one token dominates": top > 0.95,
        "repetition": distinct < 0.3,
    }
    return {
        "embedding_norm": norm,
        "embedding_rms": float(np.sqrt((table * table).mean())),
        "top_probability": top,
        "confidence_ratio": top / max(entropy, 1e-9),
        "distinct_words": distinct,
        "flags": [name for name, raised in flags.items() if raised],
    }
