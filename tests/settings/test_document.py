"""YAML with positions: every mistake is one DocumentError that says where, and no text can do more than that."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from proxy.settings import DocumentError, parse, read, suggest
from proxy.settings.document import MAX_BYTES, MAX_DEPTH, MAX_VALUES


class Cat(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="cat"):
    name: str
    lives: Annotated[int, Meta(ge=1, le=9)] = 9


class Dog(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="dog"):
    name: str
    tricks: list[str] = []


class House(msgspec.Struct, forbid_unknown_fields=True):
    rooms: dict[str, list[Cat | Dog]]
    street: str | None = None
    number: int | None = None


def mistake(text, kind=House):
    """`line:column: message` of the DocumentError."""
    with pytest.raises(DocumentError) as caught:
        parse(text, "house.yaml").convert(kind)
    error = caught.value
    assert str(error).startswith("house.yaml:")
    assert "\n" not in str(error)
    assert error.file == "house.yaml"
    return str(error).removeprefix("house.yaml:")


def test_a_document_becomes_what_it_describes():
    house = parse("rooms: {attic: [{kind: cat, name: Tom, lives: 7}, {kind: dog, name: Spike}]}").convert(House)
    assert house == House(rooms={"attic": [Cat("Tom", 7), Dog("Spike")]})
    assert parse("").data == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rooms: {}\nsteet: x", "2:1: unknown key 'steet'; did you mean 'street'?"),
        ("rooms: {}\nzzz: x", "2:1: unknown key 'zzz'; expected one of: number, rooms, street"),
        ("street: x", "1:1: key 'rooms' is required"),
        ("rooms: 5", "1:8: rooms: expected a mapping (found 5)"),
        ("rooms:\n  attic:\n  - {kind: cat, nam: Tom}", "3:17: unknown key 'nam'; did you mean 'name'?"),
        ("rooms:\n  attic:\n  - {kind: dig, name: x}", "3:12: rooms.attic.0.kind: unknown value 'dig'; did you mean"),
        ("rooms:\n  attic:\n  - {kind: cat}", "3:5: key 'name' is required"),
        ("rooms: {a: [{kind: cat, name: x, lives: 10}]}", "1:41: rooms.a.0.lives: expected an integer <= 9 (found 10)"),
        ("rooms: {}\nnumber: 'five'", "2:9: number: expected an integer (found 'five')"),
        ("rooms: {}\nstreet: [a]", "2:9: street: expected a string (found a list)"),
    ],
)
def test_a_mistake_has_its_place_and_what_was_expected(text, expected):
    said = mistake(text)
    assert said.startswith(expected), said


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: [1, 2", 2, "did not find expected"),
        ("a: 1\n b: 2", 2, ""),
        ("a: 1\na: 2", 2, "duplicate key 'a'"),
        ("a: {b: 1, b: 2}", 1, "duplicate key 'b'"),
        ("? [a]\n: 1", 1, "a key must be plain text"),
        ("a: *nothing", 1, "undefined alias"),
        ("a: !!python/object:os.system x", 1, "tag"),
        ("a: 1\n--- \nb: 2", 2, "document"),
        ("a: \t\tb: c", 1, ""),
        ("- 1", 1, "expected a mapping (found a list)"),
        ("just text", 1, "expected a mapping (found 'just text')"),
        ("a: !!bool maybe", 1, "not a value of type bool: 'maybe'"),
        ("a: !!int ''", 1, "not a value of type int: ''"),
        ("a: !!timestamp never", 1, "not a value of type timestamp: 'never'"),
        ("a: 1\nb: " + "1" * 5000, 2, "not a value of type int"),
        ("a: {<<: 5}", 1, "only mappings can be merged"),
    ],
)
def test_text_that_is_not_a_document(text, line, said):
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert caught.value.line == line
    assert said in str(caught.value)


def test_dates_and_such_stay_text():
    assert parse("a: 2024-01-02\nb: !!binary aGk=\nc: 1.5\nd: ~\ne: yes\nf: 0x10").data == {
        "a": "2024-01-02",
        "b": "aGk=",
        "c": 1.5,
        "d": None,
        "e": True,
        "f": 16,
    }


def test_merge_keys_fill_in_what_is_not_written():
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\none: {<<: *x, b: 9}\ntwo: {<<: [*x, *y], d: 5}"
    data = parse(text).data
    assert data["one"] == {"a": 1, "b": 9}
    assert data["two"] == {"a": 1, "b": 2, "c": 4, "d": 5}


def test_a_quoted_merge_key_is_a_key():
    assert parse("{'<<': {a: 1}}").data == {"<<": {"a": 1}}


def test_merged_values_are_found_where_they_were_written():
    text = "rooms:\n  a: [&tom {kind: cat, name: 7}]\n  b: [{<<: *tom}]"
    assert mistake(text).startswith("2:30: rooms.a.0.name")


def bomb(of, levels=12):
    lines = ["l0: &l0 " + of.format("x", "y")]
    lines += [f"l{n}: &l{n} " + of.format(f"*l{n - 1}", f"*l{n - 1}") for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("[{0}, {1}, {0}, {1}, {0}, {1}, {0}, {1}, {0}]"),
        bomb("{{a: {0}, b: {1}}}", levels=30),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a {<<: *a}",
        "a: &a {<<: [*a, *a]}",
        "{a: " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
    ],
    ids=["lists", "mappings", "list in itself", "mapping in itself", "merged with itself", "twice", "deep"],
)
def test_a_bomb_is_refused_before_it_goes_off(text):
    with pytest.raises(DocumentError, match=rf"more than {MAX_VALUES} values|nested"):
        parse(text)


def test_a_bomb_of_merge_keys_has_no_powder():
    lines = ["l0: &l0 {a: 1, b: 2}"]
    lines += [f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}" for n in range(1, 40)]
    data = parse("\n".join(lines)).data
    assert data["l39"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_any_depth_of_nesting_leaves_the_process_alive(opening):
    # in a process of its own: what this guards against is a crash, not an exception
    code = (
        "import sys; from proxy.settings import DocumentError, parse\n"
        "try: parse(sys.argv[1] * int(sys.argv[2]))\n"
        "except DocumentError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, opening, "2000000"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<text>:")


def test_depth_that_people_write_is_fine():
    text = "{a: " * (MAX_DEPTH - 1) + "[]" + "}" * (MAX_DEPTH - 1)
    assert parse(text).data["a"]


def test_a_file_that_cannot_be_read_is_told_with_its_name(tmp_path):
    with pytest.raises(DocumentError, match=f"^{tmp_path}: is a directory$"):
        read(tmp_path)
    with pytest.raises(DocumentError, match=f"^{tmp_path}/missing: no such file or directory$"):
        read(tmp_path / "missing")


def test_a_file_that_is_too_large_is_not_even_parsed(tmp_path):
    big = tmp_path / "big.yaml"
    big.write_bytes(b"a: 1\n" * (2 << 20))
    assert big.stat().st_size > 10_000_000
    with pytest.raises(DocumentError, match="larger than 4 MiB"):
        read(big)
    assert MAX_BYTES == 4 << 20


def test_a_file_that_is_not_utf_8(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nb: café\n".encode("latin-1"))
    with pytest.raises(DocumentError) as caught:
        read(path)
    assert (caught.value.line, caught.value.column) == (2, 7)


def test_suggestions():
    assert suggest("htp", ["http", "ssh"]) == "; did you mean 'http'?"
    assert suggest("id", ["flow_id", "community_id", "user"]) == "; did you mean 'flow_id'?"
    assert suggest("x", ["b", "a"]) == "; expected one of: a, b"
    assert suggest("x", []) == ""


YAMLISH = st.text(alphabet="{}[]:,-&*!<>|'\"#%@?=~. \n\tabcx019é\x00\x85\ud800", max_size=80)
WORDS = st.sampled_from(
    ["rooms", "street", "number", "attic", "kind", "cat", "dog", "name", "lives", "tricks", "<<", "a.b", "[0]", "..."]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def outcome(attempt):
    """The DocumentError of it, or None; any other exception goes through."""
    try:
        attempt()
    except DocumentError as error:
        return error
    return None


@given(st.text() | YAMLISH)
def test_any_text_is_a_document_or_a_document_error(text):
    error = outcome(lambda: parse(text).convert(House))
    assert error is None or "\n" not in str(error)


@given(st.binary(max_size=200))
def test_any_file_is_a_document_or_a_document_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    error = outcome(lambda: read(path))
    assert error is None or str(error).startswith(f"{path}:")


@given(st.dictionaries(WORDS, VALUES, max_size=5))
def test_any_data_converts_or_its_mistake_has_a_place(data):
    error = outcome(lambda: parse(yaml.safe_dump(data)).convert(House))
    assert error is None or (error.line and error.column)


@given(st.dictionaries(st.text(st.characters(codec="utf-8", categories=("L", "N", "Zs", "P")), max_size=6), VALUES))
def test_what_is_dumped_is_read_back(data):
    def plain(value):
        if isinstance(value, float):
            return repr(value)  # nan is not equal to itself
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    assert plain(parse(yaml.safe_dump(data)).data) == plain(data)
