"""The built-in tokenizer and the texts that it counts exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.workload.tokens import LISTED, WORDS, Texts, count

TEXTS = Texts(3, "prompts")


@given(st.integers(0, 10**12), st.integers(0, 3000))
def test_a_text_has_exactly_its_tokens(number: int, tokens: int) -> None:
    assert count(TEXTS.text(number, tokens)) == tokens


def test_very_long_texts() -> None:
    text = TEXTS.text(5, 2 * LISTED + 100)
    assert count(text) == len(text.split(" ")) == 2 * LISTED + 100


@given(st.integers(0, 10**9), st.integers(1, 200), st.integers(0, 200))
def test_a_shorter_text_begins_the_longer_one(number: int, tokens: int, more: int) -> None:
    assert TEXTS.text(number, tokens + more).split(" ")[:tokens] == TEXTS.text(number, tokens).split(" ")


def test_neighbours_differ_in_the_first_word_and_all_in_the_first_four() -> None:
    heads = [TEXTS.text(number, 4).split(" ") for number in range(20_000)]
    assert len({tuple(head) for head in heads}) == 20_000
    for begin in (0, 77, 19_000):
        assert len({head[0] for head in heads[begin : begin + len(WORDS)]}) == len(WORDS)


def test_seed_and_kind_give_other_texts() -> None:
    assert len({TEXTS.text(0, 9), Texts(4, "prompts").text(0, 9), Texts(3, "blocks").text(0, 9)}) == 3
    assert Texts(3, "prompts").text(12, 30) == TEXTS.text(12, 30)


@pytest.mark.parametrize(
    ("text", "tokens"),  # counted with the vocabulary of SmolLM2 (tokenizers 0.23)
    [
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("def add(a, b):\n    return a + b\n", 13),
        ("In 2024, the price was 3.50 dollars.", 17),
    ],
)
def test_counts_are_near_those_of_a_real_vocabulary(text: str, tokens: int) -> None:
    assert count(text) == pytest.approx(tokens, rel=0.1)


@given(st.text(max_size=300))
def test_every_character_is_in_some_token(text: str) -> None:
    assert (count(text) > 0) == (text != "")
    assert count(text) <= len(text)
