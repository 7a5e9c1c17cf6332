"""Reads policy files as a proxy does, and runs their tests."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from proxy.policy.engine import Policies
from proxy.policy.load import compile_policies, try_test
from proxy.policy.source import FileSource


class PolicyTestResult(msgspec.Struct, kw_only=True, frozen=True):
    """The result of one test in a policy file."""

    policy: str
    name: str
    expected: str
    problem: str | None  # with its place in the file; None: passed


def load(file: str, tenant: str | None, before: Sequence[str] = (), *, is_tested: bool = True) -> Policies:
    """The policy in `file`, of `tenant` or of all, after the files `before` of all tenants. DocumentError: invalid."""
    source = FileSource([*before] if tenant else [*before, file], [(tenant, file)] if tenant else [])
    return compile_policies(source, [tenant] if tenant else [], time.time(), is_tested=is_tested)


def run_tests(policies: Policies) -> list[PolicyTestResult]:
    """Run all tests of the policies. DocumentError: a test does not describe a flow."""
    results = []
    for policy in policies.policies:
        for index, test in enumerate(policy.tests):
            problem = try_test(policies, policy, index, time.time())
            expected = test.expect + (f" by {test.rule}" if test.rule else "")
            text = None if problem is None else str(problem)
            results.append(
                PolicyTestResult(
                    policy=policy.name, name=test.name or f"test {index + 1}", expected=expected, problem=text
                )
            )
    return results
