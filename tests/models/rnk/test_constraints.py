"""What can be checked of a response: its arithmetic, and that it stops once."""

import pytest

from jaxmodels.models.rnk.constraints import check_arithmetic, check_stops


@pytest.mark.parametrize(
    ("prompt", "right"),
    [
        ("What is 12 + 7?", "19"),
        ("12+7", "19"),
        ("12+7=", "19"),
        ("what's 12 plus 7", "19"),
        ("12 - 19 = ?", "-7"),
        ("What is 12-19?", "\u22127"),
        ("6 \u00d7 7", "42"),
        ("How much is 12 minus 19?", "minus 7"),
        ("I have 3 cats. What is 2 * 21?", "42"),
        ("6 times 7, please", "42"),
        ("6 x 7", "42"),
        ("What is 6x7?", "42"),
        ("-3 + 5", "2"),
        ("3 - -5", "8"),
        ("1,000 + 234", "1,234"),
        ("0.1 + 0.2", "0.3"),
        ("9" * 20 + " * " + "9" * 20, "9" * 19 + "8" + "0" * 19 + "1"),
    ],
)
def test_results_are_exact(prompt, right):
    assert check_arithmetic(prompt, right) is True
    assert check_arithmetic(prompt, f"That is {right}.") is True
    assert check_arithmetic(prompt, f"{right}1") is False
    assert check_arithmetic(prompt, "I do not know.") is False
    assert check_arithmetic(prompt, "") is False


@pytest.mark.parametrize(
    ("response", "holds"),
    [
        ("12 + 7 = 19", True),
        ("12+7 is 19. Yes, 19!", True),
        ("12 + 7 = 18", False),
        ("1 + 18 = 19", False),  # another calculation
        ("18 or 19", False),
        ("-19", False),
        ("19.5", False),
        ("19th", False),
        ("nineteen", False),  # words are not read
        ("12 + 7", False),
    ],
)
def test_the_response_states_one_number(response, holds):
    assert check_arithmetic("What is 12 + 7?", response) is holds


@pytest.mark.parametrize(
    "prompt",
    [
        "Hello, how are you?",
        "I am 12",
        "1 + 2 + 3",
        "(1 + 2) * 3",
        "3 * (1 + 2)",
        "1 + 2 and 3 + 4",
        "8 / 2",
        "2 ** 3",
        "2 + 3%",
        "on 2024-01-15",
        "pages 10-20",
        "a 1920x1080 screen",
        "a1+2",
        "1.2.3 + 4",
        "1,2 + 3",
        "9" * 101 + " + 1",
        "",
    ],
)
def test_other_prompts_are_not_checked(prompt):
    assert check_arithmetic(prompt, "3") is None


@pytest.mark.parametrize(
    ("stops", "ends", "holds"),
    [
        ([0.1, 0.2, 0.9], [False, False, True], True),
        ([0.9], [True], True),
        ([0.9, 0.2, 0.9], [False, False, True], False),  # two stops
        ([0.1, 0.9, 0.2], [False, False, True], False),  # too early
        ([0.1, 0.2, 0.3], [False, False, True], False),  # none
        ([0.1, 0.2, 0.9], [False, False, False], False),  # the response was cut
        ([], [], False),
    ],
)
def test_one_stop_at_the_last_chunk(stops, ends, holds):
    assert check_stops(stops, ends) is holds
