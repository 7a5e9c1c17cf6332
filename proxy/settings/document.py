"""YAML into typed structures, with the file, line and column of every mistake."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from proxy.settings.scalars import position_inside

T = TypeVar("T")
Place = tuple[str | int, ...]  # keys and indexes that lead from the root of a document to a value

MAX_BYTES = 4 << 20
MAX_VALUES = 200_000  # counted after aliases are expanded, which stops `billion laughs` documents
MAX_DEPTH = 100
_TYPES = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "true or false", "array": "a list",
    "object": "a mapping",
}  # fmt: skip
MERGE = "tag:yaml.org,2002:merge"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 6x faster than SafeLoader


class DocumentError(Exception):
    """One mistake in one file; `str()` is the complete message, `file:line:column: description`."""

    def __init__(self, message: str, file: str, line: int | None = None, column: int | None = None) -> None:
        where = file if line is None else f"{file}:{line}:{column}"
        super().__init__(f"{where}: {message}")
        self.message, self.file, self.line, self.column = message, file, line, column


class Document:
    """Plain data read from one YAML text, with the position of each part."""

    def __init__(
        self,
        data: Any,
        file: str,
        marks: dict[Place, tuple[int, int]],
        keys: dict[Place, tuple[int, int]],
        origin: Callable[[Place], Place] = tuple,
        source: str = "",
    ):
        self.data, self.file, self._marks, self._keys, self._origin = data, file, marks, keys, origin
        self.source = source

    def derived(self, data: Any, origin: Callable[[Place], Place]) -> Document:
        """A document with `data` derived from this one; `origin` maps each place in it to its place in this one."""
        return Document(
            data, self.file, self._marks, self._keys, lambda place: self._origin(origin(place)), self.source
        )

    def error(self, message: str, place: Place = (), *, at_key: bool = False) -> DocumentError:
        """An error for `place` (keys and indexes from the root), or for its nearest parent with a position."""
        place = self._origin(place)
        for end in range(len(place), -1, -1):
            table = self._keys if at_key and end == len(place) else self._marks
            if (mark := table.get(place[:end])) is not None:
                return DocumentError(message, self.file, *mark)
        return DocumentError(message, self.file)

    def error_inside(self, message: str, place: Place, line: int, column: int) -> DocumentError:
        """An error inside the text at `place`, at that line and column of the text (from 1), however it is quoted."""
        mark = self._marks.get(self._origin(place))
        value = self._at(place)
        if mark is None or not isinstance(value, str):
            return self.error(message, place)
        return DocumentError(message, self.file, *position_inside(self.source, mark, value, line, column))

    def convert(self, kind: type[T], place: Place = ()) -> T:
        """The data at `place` as a `kind`. DocumentError: the first mistake, with the most similar known key."""
        try:
            return msgspec.convert(self._at(place), kind, strict=True)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), kind, place) from None

    def _explain(self, text: str, kind: Any, place: Place) -> DocumentError:
        message, _, path = text.partition(" - at `")
        steps: list[str | int] = []
        for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path.rstrip("`")):
            if index == "...":  # a key of a mapping that msgspec does not name: find the first with an invalid value
                return self._explain_inside(kind, place, steps)
            steps.append(name or int(index))
        full = (*place, *steps)
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message):
            known = _field_names(_descend(kind, self._at(place), steps), self._at(full))
            return self.error(
                f"unknown key '{unknown[1]}'{suggest(unknown[1], known)}", (*full, unknown[1]), at_key=True
            )
        if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
            return self.error(f"key '{missing[1]}' is required", full)
        label = ".".join(str(step) for step in full) or "document"
        if tag := re.fullmatch(r"Invalid value '(.*)'", message):
            choices = [str(t) for t in _tags(_descend(kind, self._at(place), steps[:-1]))]
            return self.error(f"{label}: unknown value '{tag[1]}'{suggest(tag[1], choices)}", full)
        if enumeration := re.fullmatch(r"Invalid enum value '?(.*?)'?", message):
            choices = [str(c) for c in _literals(_descend(kind, self._at(place), steps))]
            return self.error(f"{label}: unknown value '{enumeration[1]}'{suggest(enumeration[1], choices)}", full)
        return self.error(f"{label}: {in_words(message)} (found {_brief(self._at(full))})", full)

    def _explain_inside(self, kind: Any, place: Place, steps: list[str | int]) -> DocumentError:
        inner = _value_type(_mapping(_descend(kind, self._at(place), steps)))
        full = (*place, *steps)
        for key, value in self._at(full).items():
            try:
                msgspec.convert(value, inner, strict=True)
            except msgspec.ValidationError as error:
                return self._explain(str(error), inner, (*full, key))
        return self.error("a key of this mapping is not valid", full)

    def _at(self, place: Place) -> Any:
        data = self.data
        for step in place:
            data = data[step]
        return data


def in_words(message: str) -> str:
    """A message of msgspec with plain words for types, without the place and the type that was found."""
    text, _, _ = message.partition(" - at `")
    text = re.sub(r"`(.*?)`", _types_in_words, re.sub(", got `.*`$", "", text))
    return text[:1].lower() + text[1:]


def _types_in_words(types: re.Match[str]) -> str:
    """Types such as `int | str | null` in plain words; null is omitted, since a key can be left out instead."""
    words = [_TYPES.get(name, name) for name in types[1].split(" | ") if name != "null"]
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "nothing"


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?`, a list of the known names, or an empty string."""
    choices = sorted(known)
    if near := difflib.get_close_matches(name, choices, n=1, cutoff=0.6):
        return f"; did you mean '{near[0]}'?"
    if parts := [each for each in choices if name in each.split("_")]:  # `id` of `flow_id`
        return f"; did you mean '{min(parts, key=len)}'?"
    return f"; expected one of: {', '.join(choices)}" if choices else ""


def read(path: str | Path) -> Document:
    """The document in the file `path`. DocumentError: it cannot be read, or is not YAML."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError((error.strerror or str(error)).lower(), name) from None
    if len(raw) > MAX_BYTES:
        raise DocumentError(f"larger than {MAX_BYTES >> 20} MiB", name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise DocumentError("not UTF-8 text", name, line, column) from None
    return parse(text, name)


def parse(text: str, file: str = "<text>") -> Document:
    """The document in `text`; the root must be a mapping."""
    try:
        _check_depth(text, file)
        root = yaml.compose(text, Loader=_Loader)
        builder = _Builder(file)
        data = {} if root is None else builder.build(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise DocumentError(error.problem or "not YAML", file, *position) from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, yaml.reader.ReaderError) and (bad := yaml.reader.Reader.NON_PRINTABLE.search(text)):
            line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
            raise DocumentError(f"a character that YAML does not allow: {bad[0]!r}", file, line, column) from None
        raise DocumentError((str(error) or "not YAML").splitlines()[0], file) from None
    except RecursionError:
        raise DocumentError("nested too deeply", file) from None
    if not isinstance(data, dict):
        raise DocumentError(f"expected a mapping (found {_brief(data)})", file, 1, 1)
    builder.marks.setdefault((), (1, 1))
    return Document(data, file, builder.marks, builder.keys, source=text)


def _check_depth(text: str, file: str) -> None:
    """Refuse deep nesting, by parser events: libyaml's composer is recursive and would crash the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise DocumentError(f"nested more than {MAX_DEPTH} deep", file, *_position(event))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    """Plain data from composed YAML nodes, with the line and column of every key and value."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Place, tuple[int, int]] = {}
        self.keys: dict[Place, tuple[int, int]] = {}
        self._values = 0
        self._pairs: dict[int, dict[str, tuple[Any, Any]]] = {}
        self._scalars = yaml.SafeLoader("")

    def build(self, node: Any, place: Place) -> Any:
        self.marks[place] = position = _position(node)
        self._values += 1
        if self._values > MAX_VALUES:
            raise DocumentError(f"more than {MAX_VALUES} values after aliases are followed", self.file, *position)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, index)) for index, item in enumerate(node.value)]
        result: dict[str, Any] = {}
        for name, (key, value) in self._merged(node).items():
            self.keys[(*place, name)] = _position(key)
            result[name] = self.build(value, (*place, name))
        return result

    def _scalar(self, node: Any) -> Any:
        try:
            value = self._scalars.construct_object(node, deep=True)
        except (ValueError, LookupError, AttributeError):  # PyYAML raises these for `!!bool maybe`, `!!int ''` etc.
            kind = node.tag.rpartition(":")[2]
            raise DocumentError(
                f"not a value of type {kind}: {_brief(node.value)}", self.file, *_position(node)
            ) from None
        # dates and the like remain text
        return value if value is None or isinstance(value, str | int | float | bool) else node.value

    def _merged(self, node: Any) -> dict[str, tuple[Any, Any]]:
        """The keys of a mapping, merged with those of `<<: *defaults`. Own keys win, then those of the first source.

        Each key is kept once: PyYAML's own merging keeps all of them, so that a few lines could exhaust the memory.
        """
        if (known := self._pairs.get(id(node))) is not None:
            return known
        written: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise DocumentError("a key must be plain text", self.file, *_position(key))
            if key.value in written:
                raise DocumentError(f"duplicate key '{key.value}'", self.file, *_position(key))
            written[key.value] = key, value
        merged: dict[str, tuple[Any, Any]] = {}
        if "<<" in written and written["<<"][0].tag == MERGE:
            merge = written.pop("<<")[1]
            for source in merge.value if isinstance(merge, yaml.SequenceNode) else [merge]:
                if not isinstance(source, yaml.MappingNode):
                    raise DocumentError("only mappings can be merged", self.file, *_position(source))
                merged = self._merged(source) | merged
        self._pairs[id(node)] = result = merged | written
        return result


def _position(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _descend(kind: Any, data: Any, steps: typing.Sequence[str | int]) -> Any:
    """The type of the value at `steps` below a `kind`."""
    for step in steps:
        plain = _plain(kind)
        if typing.get_origin(plain) in (list, set, tuple, frozenset, dict):
            kind = _value_type(plain)
        else:
            struct = _member(plain, data)
            kind = (
                next((f.type for f in msgspec.structs.fields(struct) if f.encode_name == step), None)
                if struct
                else None
            )
        data = data[step]
    return kind


def _value_type(kind: Any) -> Any:
    plain = _plain(kind)
    args = typing.get_args(plain)
    return (args[1] if typing.get_origin(plain) is dict else args[0]) if args else Any


def _mapping(kind: Any) -> Any:
    """The mapping in a union."""
    plain = _plain(kind)
    return next((arg for arg in typing.get_args(plain) if typing.get_origin(_plain(arg)) is dict), plain)


def _members(kind: Any) -> list[type[msgspec.Struct]]:
    plain = _plain(kind)
    union = typing.get_origin(plain) in (typing.Union, types.UnionType)
    options = [_plain(arg) for arg in typing.get_args(plain)] if union else [plain]
    return [option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)]


def _member(kind: Any, data: Any) -> type[msgspec.Struct] | None:
    """The structure that `data` should be: from a tagged union, the member with its tag."""
    members = _members(kind)
    for member in members:
        config = member.__struct_config__
        if len(members) == 1 or (isinstance(data, dict) and data.get(config.tag_field or "") == config.tag):
            return member
    return None


def _tags(kind: Any) -> list[Any]:
    return [member.__struct_config__.tag for member in _members(kind) if member.__struct_config__.tag is not None]


def _literals(kind: Any) -> list[Any]:
    """The allowed texts of a type; for a union, those of all its literals."""
    plain = _plain(kind)
    if typing.get_origin(plain) is typing.Literal:
        return list(typing.get_args(plain))
    if typing.get_origin(plain) in (typing.Union, types.UnionType):
        return [choice for option in typing.get_args(plain) for choice in _literals(option)]
    return []


def _field_names(kind: Any, data: Any) -> list[str]:
    member = _member(kind, data)
    if member is None:
        return []
    names = [field.encode_name for field in msgspec.structs.fields(member)]
    tag_field = member.__struct_config__.tag_field
    return [tag_field, *names] if tag_field else names


def _plain(kind: Any) -> Any:
    """X for `X | None` and `Annotated[X, ...]`."""
    while True:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif origin in (typing.Union, types.UnionType):
            rest = [arg for arg in typing.get_args(kind) if arg is not type(None)]
            if len(rest) != 1:
                return kind
            kind = rest[0]
        else:
            return kind


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else repr(value)[:60]
