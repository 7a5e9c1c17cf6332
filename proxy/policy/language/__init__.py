"""The language of conditions: `net.dst.port == 443 and any(identity.groups[*].name in {"staff"})`.

Its words and names are those of Cloudflare's Rules language and Gateway; docs/policies.md is the reference. Text is
parsed (`grammar`), checked against the fields of its phase and compiled to closures (`compile`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from proxy.policy.language.compile import Compiler, Matcher, Requirement, conjunction
from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.fields import Facts, Field, Fields, Kind
from proxy.policy.language.sets import Values
from proxy.policy.language.tree import MAX_CHARACTERS, Node

__all__ = [
    "MAX_CHARACTERS",
    "Expression",
    "ExpressionError",
    "Facts",
    "Field",
    "Fields",
    "Kind",
    "Matcher",
    "Requirement",
    "Step",
    "Values",
    "compile_expression",
    "conjunction",
    "parse",
]


class Step(NamedTuple):
    """One part of the conjunction that an expression is, as written."""

    text: str
    test: Matcher
    requires: Requirement | None  # the part that an index over one field can answer; None: no part


class Expression:
    """A compiled condition: `steps` must all hold."""

    __slots__ = ("steps", "text")

    def __init__(self, text: str, steps: list[Step]) -> None:
        self.text, self.steps = text, steps

    def matches(self, facts: Mapping[str, Any]) -> bool:
        """Whether it matches these facts: values by field name, as `Field` describes them; missing ones are None."""
        known = facts if isinstance(facts, Facts) else Facts(facts)
        return all(step.test(known) for step in self.steps)


def parse(text: str) -> Node:
    """The tree of an expression. ExpressionError: the position of the first error, and what was expected there."""
    from proxy.policy.language import grammar  # lark takes 60 ms and 4 MB: loaded only for conditions

    return grammar.parse(text)


def compile_expression(text: str, fields: Fields, lists: Mapping[str, Values] | None = None) -> Expression:
    """Compile the condition in `text`, over these fields and named lists. ExpressionError: the fault, and its place."""
    compiler = Compiler(fields, lists or {})
    steps = []
    for each in compiler.conditions(parse(text)):
        written = text[each.at.start : each.at.end] if each.at is not None else text
        steps.append(Step(" ".join(written.split()), each.test, each.requires))
    return Expression(text, steps)
