"""A model of ours as one of lm-eval's: how its requests are tokenized, scored and continued.

Contexts and continuations are split as `lm_eval.api.model.TemplateLM` does for every backend:
spaces at the end of a context go to the continuation, and the ids of both together are cut where
those of the context end. An empty context is the prefix token. Unlike the backends with a window,
a text of any length is read whole: the state is carried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from jaxmodels.data.chat.template import ChatTemplate
from jaxmodels.errors import UserError
from jaxmodels.generation.api import generate
from jaxmodels.generation.scoring import Scorer

MOST_NEW = 256  # tokens of an answer where a task does not say, as in lm-eval's `hf`
IGNORED = ("max_length", "num_beams", "use_cache")  # of a task's generation_kwargs


class Adapter(TemplateLM):
    """A language model for `lm_eval.simple_evaluate`.

    Attributes:
      scorer: counts the tokens read for scores.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        end_tokens: Sequence[int] = (),
        prefix_token: int | None = None,
        template: ChatTemplate | None = None,
        name: str = "jaxmodels",
        batch_size: int = 16,
        seed: int = 0,
    ):
        """Prepare.

        Args:
          model, tokenizer: a left-to-right language model and its tokenizer.
          end_tokens: ids that end an answer.
          prefix_token: id in front of a text without context; None = the first of `end_tokens`, or
            that of a line break.
          template: chat template, for tasks asked as conversations.
          name: what caches of requests are called.
          batch_size: most rows at a time.
          seed: of answers that are drawn at a temperature.
        """
        super().__init__()
        self.model, self.scorer = model, Scorer(model, batch_size)
        self.text, self.template, self.name = tokenizer, template, name
        self.end_tokens, self.batch_size, self.seed = tuple(end_tokens), batch_size, seed
        if prefix_token is None:
            prefix_token = end_tokens[0] if end_tokens else int(tokenizer.encode("\n")[0])
        self.prefix = prefix_token

    @property
    def eot_token_id(self) -> int:
        """Return the id that ends a text; the prefix token if there is none."""
        return self.end_tokens[0] if self.end_tokens else self.prefix

    @property
    def prefix_token_id(self) -> int:
        """Return the id that stands for an empty context."""
        return self.prefix

    @property
    def tokenizer_name(self) -> str:
        """Return a name, for lm-eval's cache of requests."""
        return self.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        """Return the ids of a text, without special tokens around it."""
        return np.asarray(self.text.encode(string)).tolist()

    def _loglikelihood_tokens(self, requests, **_) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy) of each (texts, context, continuation)."""
        return [tuple(x) for x in self.scorer.score([(c, ids) for _, c, ids in requests])]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text, all its tokens, after the prefix token."""
        texts = [self.tok_encode(text) for (text,) in (request.args for request in requests)]
        return [x.logprob for x in self.scorer.score([([self.prefix], ids) for ids in texts])]

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Return the answer to each (context, generation_kwargs), up to a string of `until`."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        answers = [""] * len(requests)
        for settings, members in groups.items():
            options = sampling_of(json.loads(settings))
            prompts = [self.tok_encode(requests[i].args[0]) or [self.prefix] for i in members]
            found = generate(
                self.model,
                prompts,
                seed=self.seed,
                tokenizer=self.text,
                end_tokens=self.end_tokens,
                slots=min(self.batch_size, len(prompts)),
                **options,
            )
            for i, completion in zip(members, found, strict=True):
                # As hf does: the text of the answer alone, which has no space at its beginning
                # where a tokenizer adds one.
                answers[i] = _cut(self.text.decode(completion.tokens), options["stop"])
        return answers

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the text of a conversation; raise UserError without a template."""
        if self.template is None:
            raise UserError("--chat: this folder has no chat template (docs/convert.md)")
        return self.template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the program of the template, for the results."""
        return self.template.source if chat_template and self.template else None


def sampling_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `generate` for a task's generation_kwargs.

    Raises:
      UserError: an option that we lack.
    """
    known = dict(normalize_gen_kwargs(dict(settings), MOST_NEW))
    drawn, temperature = known.pop("do_sample", False), known.pop("temperature", 0.0)
    options = {
        "stop": [text for text in known.pop("until") if text],
        "max_tokens": known.pop("max_gen_toks"),
        "temperature": temperature if drawn else 0.0,
    }
    for name in IGNORED:
        known.pop(name, None)
    for name in ("top_k", "top_p", "min_p", "repetition_penalty"):
        if (value := known.pop(name, None)) is not None:
            options[name] = value
    if known:
        raise UserError(f"generation_kwargs.{min(known)}: not supported; leave it out of the task")
    return options


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
