"""The language of conditions: `net.dst.port == 443 and any(identity.groups[*].name in {"staff"})`.

Its words and names are those of Cloudflare's Rules language and Gateway; docs/policies.md is the reference. Text is
parsed (`grammar`), checked against the fields of its phase and compiled to closures (`compile`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.policy.language.compile import Compiler, Matcher, Requirement, conjunction
from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.fields import Facts, Field, Fields, Kind
from proxy.policy.language.grammar import MAX_CHARACTERS, parse
from proxy.policy.language.sets import Values

__all__ = [
    "MAX_CHARACTERS",
    "Expression",
    "ExpressionError",
    "Facts",
    "Field",
    "Fields",
    "Kind",
    "Requirement",
    "Values",
    "compile_expression",
]


class Expression:
    """A compiled condition.

    `requires` are the parts of its conjunction that an index over single fields can answer; `rest` tests all others.
    """

    __slots__ = ("requires", "rest", "steps", "text")

    def __init__(self, text: str, steps: list[tuple[Matcher, Requirement | None]]) -> None:
        self.text = text
        self.steps = steps
        self.requires = tuple(requires for _, requires in steps if requires is not None)
        others = [test for test, requires in steps if requires is None]
        self.rest = conjunction(others) if others else None

    def matches(self, facts: Mapping[str, Any]) -> bool:
        """Whether it holds of these facts: values by field name, as `Field` describes them; missing ones are None."""
        known = facts if isinstance(facts, Facts) else Facts(facts)
        return all(test(known) for test, _ in self.steps)


def compile_expression(text: str, fields: Fields, lists: Mapping[str, Values] | None = None) -> Expression:
    """The condition in `text`, over these fields and named lists; ExpressionError says what is wrong, and where."""
    compiler = Compiler(fields, lists or {})
    return Expression(text, [(each.test, each.requires) for each in compiler.conditions(parse(text))])
