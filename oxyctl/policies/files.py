"""Policy files as a proxy would read them, and their tests."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from proxy.policy.engine import Policies
from proxy.policy.load import compile_policies, try_test
from proxy.policy.source import FileSource


class Tried(msgspec.Struct, kw_only=True, frozen=True):
    """A test of a policy file, and how it came out."""

    policy: str
    name: str
    expected: str
    problem: str | None  # with its place; None: as expected


def load(file: str, tenant: str | None, before: Sequence[str] = (), *, is_tested: bool = True) -> Policies:
    """The policy in `file`, of a tenant or of all, behind the files `before` of all tenants. DocumentError."""
    source = FileSource([*before] if tenant else [*before, file], [(tenant, file)] if tenant else [])
    return compile_policies(source, [tenant] if tenant else [], time.time(), is_tested=is_tested)


def try_all(policies: Policies) -> list[Tried]:
    """Each test in the files. DocumentError: one that does not describe a flow."""
    found = []
    for policy in policies.policies:
        for index, test in enumerate(policy.tests):
            problem = try_test(policies, policy, index, time.time())
            expected = test.expect + (f" by {test.rule}" if test.rule else "")
            said = None if problem is None else str(problem)
            found.append(
                Tried(policy=policy.name, name=test.name or f"test {index + 1}", expected=expected, problem=said)
            )
    return found
