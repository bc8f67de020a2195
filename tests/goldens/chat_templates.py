"""Chat templates of well-known shapes, and the texts that `transformers` renders with them.

Not needed to run the tests; it writes chat_templates.json, which `tests/data/chat` compares with:

    python3 -m venv ENV && ENV/bin/pip install transformers==5.24.0 jinja2==3.1.6
    PYTHONPATH=. ENV/bin/python tests/goldens/chat_templates.py

The templates are equivalents written for this test; no model's own file is copied.
"""

from __future__ import annotations

import datetime
import itertools
import json
from pathlib import Path
from unittest import mock

NOW = datetime.datetime(2026, 7, 4, 12, 30)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
    {% if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
    {%- endif %}
"""
# A system text inside the first instruction, roles that must alternate, BOS at each one.
LLAMA_2 = """\
{% if messages[0]['role'] == 'system' %}
{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}
{% else %}
{% set system = none %}{% set turns = messages %}
{% endif %}
{% for turn in turns %}
{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate, user first') }}
{% endif %}
{% if turn.role == 'user' -%}
{{ bos_token ~ '[INST] ' }}
{%- if loop.first and system is not none -%}
{{ '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' }}
{%- endif %}
{{- turn.content | trim ~ ' [/INST]' }}
{%- else %}
{% generation %}{{ ' ' ~ turn.content | trim ~ ' ' ~ eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}
"""
# Headers by role, the date, and tools as JSON.
LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n' }}
{%- if tools %}{% for tool in tools %}{{ tool | tojson(indent=2) + '\\n' }}{% endfor %}{% endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] in ['user', 'system', 'assistant'] %}
<|{{ message['role'] }}|>
{{ message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
# A namespace, the last user turn by its index, names of speakers, and a break.
MISTRAL = """\
{%- set ns = namespace(last=-1, shown=0) %}
{%- for m in messages if m.role == 'user' %}{% set ns.last = messages.index(m) %}{% endfor %}
{{- bos_token }}
{%- for m in messages %}
  {%- if ns.shown >= 8 %}{% break %}{% endif %}
  {%- set ns.shown = ns.shown + 1 %}
  {%- if m.role == 'user' %}
    {%- if loop.index0 == ns.last %}{{ '[AVAILABLE]' + (tools or []) | tojson }}{% endif %}
    {{- '[INST] ' + (m.name + ': ' if m.name is defined else '') + m.content + '[/INST]' }}
  {%- elif m.role == 'assistant' %}
    {{- ' ' + m.content | trim + eos_token }}
  {%- endif %}
{%- endfor %}
"""
TEMPLATES = {
    "chatml": CHATML,
    "llama_2": LLAMA_2,
    "llama_3": LLAMA_3,
    "zephyr": ZEPHYR,
    "mistral": MISTRAL,
}


def _messages(*texts: str, system: str = "") -> list[dict[str, str]]:
    roles = itertools.cycle(["user", "assistant"])
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts)]  # noqa: B905
    return ([{"role": "system", "content": system}] if system else []) + turns


CONVERSATIONS = {
    "one": _messages("Hi"),
    "three": _messages("  What is <b>1 & 2</b>?\n", ' é 🙂 "quoted" ', "And 'then'?\n\nWhat?"),
    "system": _messages("Hi", "Hello!", system="Be brief.\nBe kind."),
    "name": [{"role": "user", "content": "Hi", "name": "Ada"}],
}


def cases() -> list[tuple[str, str, bool]]:
    """Return template, conversation and whether an answer is asked for, of each golden text."""
    both = itertools.product([*TEMPLATES, "rwkv_world"], CONVERSATIONS, (True, False))
    return list(both)


def main() -> None:
    """Render every case with transformers."""
    from transformers.utils import chat_template_utils as theirs

    from jaxmodels.data.tokenizers.rwkv_world import CHAT_TEMPLATE

    sources = TEMPLATES | {"rwkv_world": CHAT_TEMPLATE}
    texts = {}
    with mock.patch.object(theirs, "datetime") as clock:
        clock.now.return_value = NOW
        for name, conversation, prompt in cases():
            rendered, _ = theirs.render_jinja_template(
                [CONVERSATIONS[conversation]],
                chat_template=sources[name],
                add_generation_prompt=prompt,
                **TOKENS,
            )
            texts[f"{name} {conversation} {prompt}"] = rendered[0]
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
