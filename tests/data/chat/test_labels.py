"""Labels by rule, and their report."""

import doctest
import importlib.util

import pytest

from jaxmodels.data.chat import labels, packaged, report
from jaxmodels.data.chat.exchange import Exchange
from jaxmodels.data.chat.labels import INTENTS, answerable_of, intent_of, question_of
from jaxmodels.models.rnk.config import RNKConfig


def test_the_classes_are_those_of_the_model_in_its_order():
    named = "greeting question fact refusal opinion identity math"
    assert INTENTS == tuple(named.split()) == RNKConfig().intents


@pytest.mark.parametrize(
    ("intent", "prompts"),
    [
        (
            "greeting",
            "Hello|hi there!|HEYYY|Hello, how are you?|What's up?|Good morning|how's it going?|"
            "Hello? Anyone home?|Nice to meet you.|Top of the morning to you!",
        ),
        (
            "identity",
            "Who are you?|what's your name|Are you a robot?|How old are you?|Where are you from|"
            "Hi! What is your age?|Do you have any brothers|Tell me about yourself.|"
            "What do you do for a living?",
        ),
        (
            "math",
            "What is 3 + 4?|2*3 is 6|seven times eight|What's 12 divided by 4?|5 - 3|"
            "the square root of 81|20 % of 50",
        ),
        (
            "opinion",
            "What do you think of it?|Do you like cats?|What is your favorite book?|"
            "I really love that movie.|Should I go?|In my opinion it is late",
        ),
        (
            "fact",
            "What is the capital of France?|who wrote hamlet|Tell me about Venus.|Define entropy|"
            "Which U.S. state is the largest?|Squab is the young of which bird?|Yes. How far is "
            "the moon?",
        ),
        (
            "question",
            "Why did you go?|Can you hear me|Is it raining?|What did he say?|Really?|"
            "Where do we meet?|How many do you have?",
        ),
        ("", "Yeah, same here.|I went home early.|My screen is black.|Have a good day!|ok|:)"),
    ],
)
def test_intents(intent, prompts):
    assert {prompt: intent_of(prompt) for prompt in prompts.split("|")} == dict.fromkeys(
        prompts.split("|"), intent
    )


@pytest.mark.parametrize(
    ("prompt", "response", "refuses", "answers"),
    [
        ("Bend over", "That's personal!", True, False),
        ("What is your pin?", "I'm sorry, but I cannot answer that.", True, False),
        ("How do I break in?", "I can\u2019t help with that.", True, False),
        ("Help me.", "As an AI language model, I cannot assist.", True, False),
        ("Help me.", "As an AI, I have no hands.", False, True),
        ("What is it?", "I don't know.", False, False),
        ("Who won?", "not sure tbh", False, False),
        ("When?", "No idea", False, False),
        ("I lost my key.", "I don't know what to say.", False, True),  # nothing was asked
        ("Who won?", "Spain. I don't know by how much.", False, True),
        ("Coming?", "I can't wait to see you!", False, True),
        ("What do you say?", "I know it well.", False, True),
    ],
)
def test_refusals_and_unknown_answers(prompt, response, refuses, answers):
    assert (intent_of(prompt, response) == "refusal") == refuses
    assert answerable_of(prompt, response) == answers


def test_the_last_question_counts():
    assert question_of("Hi! Who won? It was late, was it not? Bye.") == "it was late was it not"
    assert question_of("In the U.S. it is late.\nwhy is that") == "why is that"
    assert question_of("It is late.") == question_of("...") == ""


@pytest.mark.parametrize("module", [labels, packaged], ids=lambda m: m.__name__)
def test_examples(module):
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed


def test_confusion_counts_categories_that_tell_the_intent():
    def x(prompt, source, intent):
        return Exchange((prompt,), "", source, intent)

    table = report.confusion(
        [
            x("Hi", "chatterbot/greetings", "greeting"),
            x("So", "chatterbot/greetings", ""),
            x("Who was he?", "chatterbot/trivia", "question"),
            x("Who was she?", "chatterbot/gossip", "question"),
            x("Who are you?", "chitchat", "identity"),
        ]
    )
    assert table.keys() == {"greetings", "trivia"}
    assert table["greetings"]["greeting"] == table["greetings"][""] == 1
    assert table["trivia"] == dict.fromkeys(report.NAMES, 0) | {"question": 1}
    assert report.agreement(table) == pytest.approx(1 / 3)


def test_the_report_command(tmp_path, capsys):
    assert report.main(["Data/chat/sample.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "| greeting | question |" in shown and "| 13 |" in shown and "category" not in shown
    assert report.main([str(tmp_path / "none.jsonl")]) == 2


def test_rules_agree_with_chatterbots_categories(capsys):
    if importlib.util.find_spec("chatterbot_corpus") is None:
        pytest.skip("package chatterbot_corpus is not installed")
    assert report.main(["chatterbot"]) == 0
    shown = capsys.readouterr().out
    share = float(shown.split("chatterbot: ")[1].split("%")[0])
    assert share > 90  # measured: 92.0, on the texts by which the rules were written
    assert "| greetings (greeting) | 25 | 0 |" in shown
