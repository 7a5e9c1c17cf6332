"""Policies inside a lab file: written as files for the proxy, and validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from oxyctl.topology.model import ErrorAt
from proxy.settings import DocumentError

POLICIES = "policies"  # the directory beside proxy.yaml
GLOBAL_FILE = "all.yaml"

PolicyMapping = dict[str, Any]


def policy_text(policy: PolicyMapping) -> str:
    """The content of the policy's file."""
    return str(yaml.safe_dump(policy, sort_keys=False, allow_unicode=True))


def policy_path(tenant: str | None) -> str:
    """The policy's file, relative to proxy.yaml; None: the policy of all tenants."""
    return f"{POLICIES}/{GLOBAL_FILE if tenant is None else f'tenants/{tenant}.yaml'}"


@dataclass
class _File:
    path: str
    tenant: str | None
    policy: PolicyMapping

    def text(self) -> str:
        return policy_text(self.policy)

    def beside(self, name: str) -> str:
        raise DocumentError("a policy in a lab file cannot include other files: write its lists inline", name)


@dataclass
class _Source:
    files: list[_File]

    def get(self) -> list[_File]:
        return self.files


def check_policies(
    global_policy: PolicyMapping | None, tenant_policies: Mapping[str, PolicyMapping], error_at: ErrorAt
) -> None:
    """Raise `error_at(...)` if a proxy would refuse a policy. No line numbers, since the YAML was rewritten."""
    from proxy.policy.load import compile_policies  # takes 0.1 s to import: only for labs with policies

    files = [] if global_policy is None else [_File("policy", None, global_policy)]
    files += [_File(f"policy of {tenant}", tenant, policy) for tenant, policy in tenant_policies.items()]
    try:
        compile_policies(_Source(files), tenant_policies, 0.0)
    except DocumentError as error:
        tenant = next((each.tenant for each in files if each.path == error.file), None)
        key_path = ("policy",) if tenant is None else ("tenants", tenant, "policy")
        raise error_at(f"{error.message}{_where(files, error)}", *key_path) from None


def _where(files: list[_File], error: DocumentError) -> str:
    """The line of the rewritten policy with the error, in parentheses."""
    text = next((each.text() for each in files if each.path == error.file), "")
    lines = text.splitlines()
    return f" (in '{lines[error.line - 1].strip()}')" if error.line and error.line <= len(lines) else ""
