"""Mistakes inside texts are told at their own line and column, however YAML has them written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import parse

WRITTEN = {
    "when: one two X": (1, 15),
    "when: 'one two X'": (1, 16),
    'when: "one two X"': (1, 16),
    'when: "on\\x65 two X"': (1, 19),
    "when: 'it''s one X'": (1, 18),
    'when: "a \\"b\\" X"': (1, 16),
    "when: |\n  one two\n  X": (3, 3),
    "when: >-\n  one\n  two\n\n  X\n": (5, 3),
    "when: one\n  two\n  X": (3, 3),
    "a: {b: 1}\nwhen: 'one\n  X'": (3, 3),
}


@pytest.mark.parametrize("text", WRITTEN, ids=repr)
def test_the_place_in_the_file_of_a_character_in_a_text(text):
    document = parse(text, "f")
    value = document.data["when"]
    at = value.index("X")
    line, column = value.count("\n", 0, at) + 1, at - value.rfind("\n", 0, at)
    error = document.error_inside("wrong", ("when",), line, column)
    assert (error.line, error.column) == WRITTEN[text]


def test_behind_the_last_word():
    error = parse("when: (a\nb: 1").error_inside("expected ')'", ("when",), 1, 3)
    assert (error.line, error.column) == (1, 9)


@given(st.text("ab X\n", min_size=1, max_size=30), st.sampled_from(["|\n", '"']), st.integers(1, 4), st.integers(1, 30))
def test_any_place_of_any_text_is_a_place_in_the_file(value, style, line, column):
    body = "\n".join("  " + each for each in value.split("\n"))
    text = f"when: |\n{body}\n" if style != '"' else f'when: "{value}"\n'
    try:
        document = parse(text)
    except Exception:
        return
    if isinstance(document.data["when"], str):
        error = document.error_inside("wrong", ("when",), line, column)
        assert 1 <= error.line <= text.count("\n") + 1
