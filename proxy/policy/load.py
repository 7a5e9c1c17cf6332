"""Loads all policies as one transaction: on any error in a file or its tests, nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxy.policy.engine import Outcome, Policies
from proxy.policy.facts import imagine
from proxy.policy.language import Values
from proxy.policy.lists import ReadFile
from proxy.policy.read import Policy, read_policy, version_of
from proxy.policy.source import Source, SourceFile
from proxy.settings import Document, DocumentError, parse
from proxy.settings.document import Place


def compile_policies(source: Source, tenants: Iterable[str], now: float, *, is_tested: bool = True) -> Policies:
    """Compile the current policies of a source. DocumentError: a mistake, or a failed test. `now`: Unix s."""
    policies: list[Policy] = []
    global_lists: dict[str, Values] = {}
    for file in source.get():
        policy = read_policy(parse(file.text(), file.path), file.tenant, _reader(file), global_lists)
        if file.tenant is None:
            global_lists |= policy.lists
        if any(each.name == policy.name and each.tenant == file.tenant for each in policies):
            raise policy.document.error(f"another policy has the name '{policy.name}'", ("name",))
        policies.append(policy)
    compiled = Policies(policies, version_of(policy.version for policy in policies), tenants)
    for policy in policies if is_tested else ():
        for index in range(len(policy.tests)):
            if (problem := try_test(compiled, policy, index, now)) is not None:
                raise problem
    return compiled


def check_body_hook(has_hook: Callable[[str], bool], policies: Policies) -> None:
    """Raise DocumentError for the first rule that needs bodies inspected, if the application has no hook for it."""
    if has_hook("http_body"):
        return
    for rule in policies.rules():
        if rule.is_enabled and rule.verdict.http is not None and rule.verdict.http.reads:
            message = f"rule '{rule.name}': inspect-body needs an application with the hook http_body (`hooks: ...`)"
            raise DocumentError(message, rule.file, rule.line, 1)


def try_test(policies: Policies, policy: Policy, index: int, now: float) -> DocumentError | None:
    """Run one test of a policy. Returns how it failed, or None. DocumentError: its flow is invalid."""
    test, place = policy.tests[index], ("tests", index)
    try:
        facts = imagine(test.flow, test.phase, now)
    except ValueError as error:
        message, *key = error.args
        raise policy.document.error(str(message), (*place, "flow", *key), at_key=bool(key)) from None
    tenant = policy.tenant or test.flow.tenant
    if facts["tenant"] is None:
        facts["tenant"] = tenant
    name = f"test '{test.name}'" if test.name else f"test {index + 1}"
    outcome = policies.try_out(tenant, test.phase, facts) or policies.try_out(None, test.phase, facts)
    if outcome is None:
        return policy.document.error(f"{name} fails: no rule is of phase {test.phase}", place)
    wanted = {"deny": "block"}.get(test.expect, test.expect)
    action, decider = action_of(outcome), decided_by(outcome)
    is_expected = wanted == action or any(rule.action == wanted for rule in outcome.matching)
    if is_expected and (test.rule is None or test.rule in (decider, *(rule.name for rule in outcome.matching))):
        return None
    expected = wanted + (f" by rule '{test.rule}'" if test.rule else "")
    return policy.document.error(f"{name} fails: expected {expected}, got {action} by {_rule_text(decider)}", place)


def action_of(outcome: Outcome) -> str:
    """The action that decided about the flow."""
    if outcome.decided_by is not None:
        return outcome.decided_by.action
    return "block" if outcome.ruling.verdict.is_denial else "allow"


def decided_by(outcome: Outcome) -> str:
    """The name of the rule that decided, or `default`."""
    return outcome.decided_by.name if outcome.decided_by is not None else "default"


def _rule_text(rule: str) -> str:
    return "default" if rule == "default" else f"rule '{rule}'"


def _reader(file: SourceFile) -> ReadFile:
    def read(name: str, document: Document, place: Place) -> str:
        try:
            return file.beside(name)
        except DocumentError as error:
            raise document.error(f"the file '{name}': {error.message}", place) from None

    return read
