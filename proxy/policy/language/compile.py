"""Compiles syntax trees into closures, with type checks; finds values that a condition requires of single fields."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.fields import Field, Fields, Kind
from proxy.policy.language.functions import FUNCTIONS, QUANTIFIERS, Function
from proxy.policy.language.operands import Operand, operand_of_path
from proxy.policy.language.patterns import regular_expression, wildcard
from proxy.policy.language.sets import Values, check_list, constant, kind_of, values_of
from proxy.policy.language.tree import Call, Comparison, Literal, Logic, Membership, Node, Not, Path, Spot
from proxy.settings import suggest

Matcher = Callable[[Any], bool]
MAX_COMPARED = 1_000  # maximum size of sets that are compared with one another when the file is loaded


@dataclass(frozen=True, slots=True)
class Requirement:
    """A field (or at least one element of an array) must have one of these values, which an index can look up.

    `values` None: the field must be present; the test itself decides about its value.
    """

    field: Field
    values: Values | None
    at: Spot


@dataclass(frozen=True, slots=True)
class Condition:
    """A test of the facts. With `is_each` it returns a tuple of results, one for each element of an array."""

    test: Callable[[Any], Any]
    requires: Requirement | None = None
    is_each: bool = False
    at: Spot | None = None  # for a part of a conjunction


class Compiler:
    """Compiles the trees of one phase. ExpressionError: types do not match."""

    def __init__(self, fields: Fields, lists: Mapping[str, Values]) -> None:
        self._fields, self._lists = fields, lists

    def conditions(self, node: Node) -> list[Condition]:
        """Conditions that must all hold: the parts of a conjunction, or the one condition."""
        parts = node.parts if isinstance(node, Logic) and node.word == "and" else (node,)
        found = [replace(self.whole(part), at=part.at) for part in parts]
        _check_possible([each.requires for each in found if each.requires is not None])
        return found

    def whole(self, node: Node) -> Condition:
        """A condition with one result."""
        condition = self._condition(node)
        if condition.is_each:
            raise ExpressionError("compares each element of an array: write any(…) or all(…) around it", *node.at)
        return condition

    def _condition(self, node: Node) -> Condition:
        if isinstance(node, Logic):
            return self._logic(node)
        if isinstance(node, Not):
            return self._inverse(node)
        if isinstance(node, Comparison):
            return self._comparison(node)
        if isinstance(node, Membership):
            return self._membership(node)
        if isinstance(node, Call) and node.name in QUANTIFIERS:
            return self._quantified(node)
        operand = self.operand(node)
        if operand.kind is not Kind.FLAG or operand.is_array:
            raise ExpressionError(f"expected a condition (found {operand.described})", *node.at)
        read = operand.read
        if operand.is_each:
            return Condition(lambda facts: tuple(value is True for value in read(facts) or ()), is_each=True)
        if operand.field is not None:
            name = operand.field.name
            requirement = Requirement(operand.field, Values(Kind.FLAG, frozenset({True})), node.at)
            return Condition(lambda facts: facts[name] is True, requirement)
        return Condition(lambda facts: read(facts) is True)

    def _logic(self, node: Logic) -> Condition:
        if node.word == "and":
            return Condition(conjunction([each.test for each in self.conditions(node)]))
        parts = [self.whole(part) for part in node.parts]
        tests = tuple(each.test for each in parts)
        if node.word == "or":
            return Condition(_disjunction(tests), _union([each.requires for each in parts]))
        return Condition(lambda facts: sum(test(facts) for test in tests) % 2 == 1)

    def _inverse(self, node: Not) -> Condition:
        inner = self._condition(node.inner)
        test = inner.test
        if inner.is_each:
            return Condition(lambda facts: tuple(not each for each in test(facts)), is_each=True)
        return Condition(lambda facts: not test(facts))

    def _quantified(self, node: Call) -> Condition:
        if len(node.arguments) != 1:
            raise ExpressionError(f"{node.name}(…) takes one condition (found {len(node.arguments)})", *node.at)
        inner = self._condition(node.arguments[0])
        if not inner.is_each:
            message = f"{node.name}(…) needs a condition over an array, such as any(field[*] == …)"
            raise ExpressionError(message, *node.arguments[0].at)
        test = inner.test
        if node.name == "any":
            return Condition(lambda facts: any(test(facts)), inner.requires)
        return Condition(lambda facts: all(test(facts)))

    def _comparison(self, node: Comparison) -> Condition:
        if isinstance(node.left, Literal):
            raise ExpressionError("a value stands on the right side of a comparison, a field on the left", *node.at)
        left = self.operand(node.left)
        _check_comparable(left, node.left)
        if not isinstance(node.right, Literal):
            return self._compare_operands(node, left)
        operator, right = node.operator, node.right
        if operator in ("==", "!="):
            value = constant(right, left.kind, left.choices)
            if operator == "==":
                same = Values(left.kind, frozenset({value}))
                return _applied(left, lambda found: found == value, same, node.at)
            return _applied(left, lambda found: found != value)
        test = _constant_test(operator, left, node, right)
        return _applied(left, lambda found: found is not None and test(found), at=node.at)

    def _compare_operands(self, node: Comparison, left: Operand) -> Condition:
        right = self.operand(node.right)
        if right.is_array or right.is_each or left.is_each:
            raise ExpressionError("only single values are compared with a field", *node.right.at)
        if right.kind is not left.kind:
            raise ExpressionError(f"expected a {left.kind} (found {right.described})", *node.right.at)
        if node.operator not in _ORDER and node.operator not in ("==", "!=", "contains"):
            raise ExpressionError(f"'{node.operator}' needs a pattern in quotes", *node.right.at)
        _check_operator(node, left)
        one, other = left.read, right.read
        # an unknown value equals nothing, not even another unknown one
        compare = {"==": _equal, "!=": _equal, "contains": _contains, **_ORDER}[node.operator]

        def test(facts: Any) -> bool:
            first, second = one(facts), other(facts)
            return first is not None and second is not None and compare(first, second)

        return Condition(test if node.operator != "!=" else lambda facts: not test(facts))

    def _membership(self, node: Membership) -> Condition:
        left = self.operand(node.left)
        _check_comparable(left, node.left)
        if node.list_name is not None:
            values = check_list(node.list_name, self._lists, left.kind, node.list_at)
        else:
            values = values_of(node.items, left.kind, left.choices)
        container: Any = values.container()
        return _applied(left, lambda found: found in container, values, node.left.at)

    def operand(self, node: Node) -> Operand:
        """A value: a field, a literal, or the result of a function."""
        if isinstance(node, Path):
            return operand_of_path(node, self._fields)
        if isinstance(node, Literal):
            kind = Kind.ADDRESS if node.is_address else kind_of(node.value)
            value = constant(node, kind)
            return Operand(kind, lambda facts: value)
        if isinstance(node, Call) and node.name not in QUANTIFIERS:
            return self._called(node)
        condition = self.whole(node)
        return Operand(Kind.FLAG, condition.test)

    def _called(self, node: Call) -> Operand:
        function = FUNCTIONS.get(node.name)
        if function is None:
            known = (*FUNCTIONS, *QUANTIFIERS)
            raise ExpressionError(f"unknown function '{node.name}'{suggest(node.name, known)}", *node.at)
        arguments = [self.operand(each) for each in node.arguments]
        _check_arguments(node, function, arguments)
        call, reads = function.call, tuple(each.read for each in arguments)
        first, *others = reads

        def rest(facts: Any) -> list[Any] | None:
            values = [read(facts) for read in others]
            return None if None in values else values

        if arguments[0].is_each:

            def each(facts: Any) -> Any:
                values = rest(facts)
                return () if values is None else tuple(call(value, *values) for value in first(facts) or ())

            return Operand(function.gives, each, is_each=True)

        def one(facts: Any) -> Any:
            value, values = first(facts), rest(facts)
            return None if value is None or values is None else call(value, *values)

        return Operand(function.gives, one)


def conjunction(tests: list[Matcher]) -> Matcher:
    """A test of whether all conditions hold; without conditions, it holds."""
    if not tests:
        return lambda facts: True
    if len(tests) == 1:
        return tests[0]
    first, second, *others = tests
    if not others:
        return lambda facts: first(facts) and second(facts)
    if len(others) == 1:
        third = others[0]
        return lambda facts: first(facts) and second(facts) and third(facts)
    rest = conjunction(others)
    return lambda facts: first(facts) and second(facts) and rest(facts)


def _disjunction(tests: tuple[Matcher, ...]) -> Matcher:
    if len(tests) == 2:
        first, second = tests
        return lambda facts: first(facts) or second(facts)

    def test(facts: Any) -> bool:
        for each in tests:  # noqa: SIM110 -- any() over a generator costs 0.3 us more
            if each(facts):
                return True
        return False

    return test


def _applied(
    operand: Operand, test: Callable[[Any], bool], values: Values | None = None, at: Spot | None = None
) -> Condition:
    """The condition that applies a test to an operand."""
    requires = None
    if operand.field is not None and at is not None:
        requires = Requirement(operand.field, values, at)
    read = operand.read
    if operand.is_each:
        return Condition(lambda facts: tuple(test(value) for value in read(facts) or ()), requires, is_each=True)
    if operand.field is not None:
        name = operand.field.name
        if values is not None:  # the most frequent: one call less
            container: Any = values.container()
            return Condition(lambda facts: facts[name] in container, requires)
        return Condition(lambda facts: test(facts[name]), requires)
    return Condition(lambda facts: test(read(facts)))


def _equal(first: Any, second: Any) -> bool:
    return bool(first == second)


def _contains(first: Any, second: Any) -> bool:
    return second in first


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda first, second: first < second,
    "<=": lambda first, second: first <= second,
    ">": lambda first, second: first > second,
    ">=": lambda first, second: first >= second,
}


def _constant_test(operator: str, left: Operand, node: Comparison, right: Literal) -> Callable[[Any], bool]:
    """The test of a present value against a constant."""
    _check_operator(node, left)
    value: Any = constant(right, left.kind)
    if operator in _ORDER:
        compare = _ORDER[operator]
        return lambda found: compare(found, value)
    if operator == "contains":
        return lambda found: value in found
    if operator == "matches":
        return regular_expression(value, right.at)
    return wildcard(value, strict=operator.startswith("strict"))


def _check_operator(node: Comparison, left: Operand) -> None:
    if node.operator in _ORDER and left.kind is not Kind.NUMBER:
        raise ExpressionError(f"'{node.operator}' compares numbers (found {left.described})", *node.operator_at)
    if node.operator not in (*_ORDER, "==", "!=") and left.kind is not Kind.TEXT:
        hint = "; did you mean 'in'?" if left.kind is Kind.ADDRESS else ""
        raise ExpressionError(f"'{node.operator}' looks into a text (found {left.described}){hint}", *node.operator_at)


def _check_comparable(operand: Operand, node: Node) -> None:
    if operand.is_array:
        shown = node.text if isinstance(node, Path) else "it"
        raise ExpressionError(f"{shown} is an {operand.described}: write any({shown}[*] …) or all(…)", *node.at)


def _check_arguments(node: Call, function: Function, arguments: list[Operand]) -> None:
    least, most = len(function.takes) - function.optional, len(function.takes)
    if len(arguments) < least or (len(arguments) > most and not function.is_variadic):
        wanted = f"{least} or more" if function.is_variadic else str(least) if least == most else f"{least} or {most}"
        plural = "" if wanted == "1" else "s"
        raise ExpressionError(f"{node.name}(…) takes {wanted} argument{plural} (found {len(arguments)})", *node.at)
    wanted_kinds = itertools.chain(function.takes, itertools.repeat(function.takes[-1]))
    for number, (argument, kinds, written) in enumerate(zip(arguments, wanted_kinds, node.arguments, strict=False)):
        if argument.is_array and not (number == 0 and function.takes_array):
            _check_comparable(argument, written)
        if argument.is_each and number > 0:
            raise ExpressionError(f"only the first argument of {node.name}(…) may hold [*]", *written.at)
        if argument.kind not in kinds and not argument.is_array:
            wanted = " or ".join(sorted(kinds))
            raise ExpressionError(f"{node.name}(…): expected {wanted} (found {argument.described})", *written.at)


def _union(requirements: list[Requirement | None]) -> Requirement | None:
    """The requirement of alternatives, if all of them are about the same field."""
    first = requirements[0]
    if first is None or any(each is None or each.field is not first.field for each in requirements):
        return None
    values = first.values
    for each in requirements[1:]:
        assert each is not None
        values = None if values is None or each.values is None else values.union(each.values)
    return Requirement(first.field, values, first.at)


def _check_possible(requirements: list[Requirement]) -> None:
    """Reject conditions that no flow can meet: a field that must have two values at once."""
    for one, other in itertools.combinations(requirements, 2):
        if one.field is not other.field or one.field.is_array:
            continue
        values, others = one.values, other.values
        if values is None or others is None or max(len(values.single), len(others.single)) > MAX_COMPARED:
            continue
        if values.is_disjoint(others):
            raise ExpressionError(f"can never hold: {one.field.name} would need two values at once", *other.at)
