"""What a key may ask, and what it is told, as a price needs it."""

import pytest

from craft_shared.messages import ModelCard, Output, Policy
from craft_tuner.errors import AccessDenied
from craft_tuner.plan import check_names, of_key
from tests.support.tuner_server import model_card

LIST = ["cat", "dog", "owl"]


def card(**changes: object) -> ModelCard:
    return model_card().model_copy(update=changes)


def least(count: int) -> ModelCard:
    plain = model_card()
    return plain.model_copy(
        update={"limits": plain.limits.model_copy(update={"min_classes": count})}
    )


def test_the_policy_says_how_many_numbers_are_told() -> None:
    top = Policy(output=Output(kind="top_k", k=3))
    assert of_key(card(output="top_k"), top)["told"] == 3
    assert of_key(card(output="label"))["told"] == 1
    assert of_key(card())["told"] == of_key(card(output="top_k"))["told"] > 10**6


def test_a_key_with_a_list_of_names_asks_about_no_others() -> None:
    assert of_key(card(class_names=LIST))["names"] == 0
    assert of_key(card())["names"] == 50


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["cat", "dog"],
            "its own list of 3 class names .* here are 2: 'owl' is on it and not here",
        ),
        (["cat", "dog", "fox"], "'fox' is not on it, 'owl' is on it and not here"),
        ([*LIST, "fox"], "'fox' is not on it"),
        ([*LIST, "owl"], "some more than once"),
    ],
)
def test_names_off_a_key_s_list_are_refused_in_words(names: list[str], said: str) -> None:
    with pytest.raises(AccessDenied, match=said):
        check_names(card(class_names=LIST), names)


def test_the_list_may_be_asked_in_any_order() -> None:
    check_names(card(class_names=LIST), ["owl", "cat", "dog"])


def test_too_few_names_for_a_key_are_refused() -> None:
    check_names(least(3), LIST)
    with pytest.raises(
        AccessDenied, match="about at least 4 class names at a time, and here are 3"
    ):
        check_names(least(4), LIST)
