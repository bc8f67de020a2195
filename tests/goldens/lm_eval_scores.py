"""Scores that lm-eval's own backend `hf` gives for the Mamba of this folder.

Not needed to run the tests; it writes lm_eval_scores.json, which `tests/eval/lm_eval` reads:

    python3 -m venv ENV
    ENV/bin/pip install 'lm-eval==0.4.13' torch==2.13.0 transformers==5.24.0 accelerate
    PYTHONPATH=. ENV/bin/python tests/goldens/lm_eval_scores.py
"""

from __future__ import annotations

import json
import tempfile
import types
from pathlib import Path

from tokenizers import Tokenizer, decoders, models

HERE = Path(__file__).parent
PAIRS = [
    ("the fox", "zig"),  # greedy
    ("the fox and ", "the dog"),
    ("the fox and", " the dog"),
    ("a la", "zy dog"),
    ("a la", "the"),
    ("a la", "e"),
    ("the", " the the fox."),
    ("", "the fox"),
    ("", "<eos>the"),
    ("the dog sleeps.  ", "x"),
]
TEXTS = ["the fox and the dog", "a", "the the the lazy dog sleeps. " * 3]
QUESTIONS = [
    ("the fox", {"until": ["d"], "max_gen_toks": 12}),
    ("a lazy dog and", {"until": ["zz"], "max_gen_toks": 7, "do_sample": False}),
    ("the", {"until": [], "max_gen_toks": 20}),
]


def tokenizer() -> Tokenizer:
    """Return a tokenizer of 50 ids: letters, and merges over spaces and borders of words."""
    merges = [("t", "h"), ("th", "e"), (" ", "the"), ("l", "a"), ("z", "y"), ("la", "zy")]
    merges += [("o", "x"), ("f", "ox"), (" ", "fox"), ("d", "o"), ("do", "g"), (" ", "dog")]
    tokens = ["<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz .,?!", *map("".join, merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    vocabulary |= {f"<{i}>": i for i in range(len(tokens), 50)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<eos>", "<unk>"])
    return made


def requests(items: list[tuple]) -> list:
    """Return what lm-eval asks: objects with `args`."""
    return [types.SimpleNamespace(args=item) for item in items]


def main() -> None:
    """Ask the backend and write its answers."""
    from lm_eval.models.huggingface import HFLM
    from transformers import MambaForCausalLM, PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer(), eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
        )
        wrapped.save_pretrained(folder)
        model = MambaForCausalLM.from_pretrained(HERE / "mamba")
        backend = HFLM(pretrained=model, tokenizer=folder, device="cpu", batch_size=1)
        scores = {
            "loglikelihood": backend.loglikelihood(requests(PAIRS)),
            "rolling": backend.loglikelihood_rolling(requests([(text,) for text in TEXTS])),
            "generate_until": backend.generate_until(requests(QUESTIONS)),
        }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
