from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwd.errors import ConfigError
from lwd.instruction import InstructionEncoder

encode = InstructionEncoder()
LITERAL = """
[0, 0, 0, -1333, -1333, -1333, 0, 1333, 0, 0, 0, 0, 1333, 0, 1333, -1333, 1333, 0, 0, 0, 0, 0, 0, -1333, 1333,
1333, -1333, 2667, 1333, 0, 0, -1333]
"""
CODE = """
from lwd.instruction import InstructionEncoder
print((InstructionEncoder()('Make the tea.') * 1000).round().astype(int).tolist())
"""
sentences = st.lists(
    st.sampled_from(
        [
            "pick",
            "place",
            "the",
            "red",
            "blue",
            "cube",
            "drawer",
            "open",
            "close",
            "tea",
            "press",
            "button",
            "twice",
            "then",
        ]
    ),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(sentences, sentences)
def test_different_sentences_differ_and_equal_ones_do_not(one: list[str], two: list[str]) -> None:
    first, second = encode(" ".join(one)), encode(" ".join(two))
    assert np.array_equal(first, second) == (one == two)
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(np.sqrt(32), rel=1e-5)


@given(sentences)
def test_case_punctuation_and_spacing_do_not_count(words: list[str]) -> None:
    spoken = "  " + ",\t".join(word.upper() for word in words) + "! "
    np.testing.assert_array_equal(encode(" ".join(words)), encode(spoken))


@given(st.text(min_size=1, max_size=30), st.integers(8, 64))
def test_any_text_has_a_finite_vector(text: str, dim: int) -> None:
    vector = InstructionEncoder(dim=dim)(text)
    assert vector.shape == (dim,)
    assert np.isfinite(vector).all()


def test_what_it_cannot_tell_apart() -> None:
    """It counts pairs of neighbours, so sentences that repeat a word may coincide; instructions hardly ever do."""
    np.testing.assert_array_equal(encode("pick pick place pick"), encode("pick place pick pick"))


def test_single_words_differ() -> None:
    vectors = {encode(f"word{i}").tobytes() for i in range(2000)}
    assert len(vectors) == 2000


def test_similar_sentences_are_closer_than_different_ones() -> None:
    a, b, c = (
        encode("put the red cube into the drawer"),
        encode("put the blue cube into the drawer"),
        encode("make tea"),
    )
    assert a @ b > a @ c + 5


def test_a_literal_value() -> None:
    """A snapshot trained with this embedding must meet the same numbers for ever."""
    assert encode.version == "hashed-bigrams-v1-32"
    out = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == " ".join(LITERAL.split())


def test_a_tiny_vector_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        InstructionEncoder(dim=4)
