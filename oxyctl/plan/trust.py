"""Plans trusted certificates: the bundles of nodes, and the lab's authority for proxies that inspect. Pure.

The lab's authority signs certificates of origins, as public ones do outside. The proxy creates those of tenants.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from oxyctl.plan.steps import Bundle
from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import ProxyNode
from oxyctl.topology.trust import may_inspect, tenant_of
from proxy.settings import TenantSettings

# Variables with which programs replace their built-in bundle of trusted certificates
VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")


SSH_KNOWN_HOSTS = "SSH_KNOWN_HOSTS"  # for `ssh -o UserKnownHostsFile=$SSH_KNOWN_HOSTS`


class TrustPlan:
    """The trust between nodes of one lab. `directory`: where the lab's authority is stored."""

    def __init__(self, lab: Lab, run: Path) -> None:
        self.directory = run / "services"
        self.may_inspect = may_inspect(lab)
        self._lab, self._run = lab, run

    @property
    def authority(self) -> str:
        """The file with the certificate of the lab's authority."""
        return str(self.directory / "ca.pem")

    def authorities_of(self, node: str) -> list[str]:
        """The files of the certificates that `node` trusts in addition to the system's."""
        trust = self._lab.nodes[node].trust
        if trust is None:
            return []
        tenant = tenant_of(self._lab, node) if trust == "tenant-ca" else None
        return [self.authority] if tenant is None else [self.authority, self._tenant_authority(*tenant)]

    def bundle_of(self, node: str) -> str | None:
        """The file of the bundle that `node` trusts; None: the system's."""
        trust = self._lab.nodes[node].trust
        if trust is None:
            return None
        tenant = tenant_of(self._lab, node) if trust == "tenant-ca" else None
        return str(self._run / "trust" / ("lab.pem" if tenant is None else f"{tenant[0]}/{tenant[1]}.pem"))

    def bundles(self) -> list[Bundle]:
        """All bundles, without duplicates."""
        nodes = {path: node for node in self._lab.nodes if (path := self.bundle_of(node)) is not None}
        return [Bundle(path=path, authorities=self.authorities_of(node)) for path, node in nodes.items()]

    @property
    def terminates_ssh(self) -> bool:
        """Whether any proxy terminates SSH sessions."""
        return any(self._ssh_tenants())

    def user_cas(self) -> list[str]:
        """The public keys of the authorities that sign SSH users' certificates, as files."""
        return [str(self._ssh_keys(*each) / "ssh_user_ca.pub") for each in self._ssh_tenants()]

    def environment_of(self, node: str) -> dict[str, str]:
        """Variables for programs of `node` that do not use the system's bundle of certificates."""
        bundle = self.bundle_of(node)
        variables = {} if bundle is None else dict.fromkeys(VARIABLES, bundle)
        tenant = tenant_of(self._lab, node) if self._lab.nodes[node].trust == "tenant-ca" else None
        if tenant in self._ssh_tenants():
            variables[SSH_KNOWN_HOSTS] = str(self._ssh_keys(*tenant) / "known_hosts")
        return variables

    def with_origin_trust(self, tenant: TenantSettings) -> TenantSettings:
        """The tenant's settings, changed to trust the lab's authority for origins."""
        if not self.may_inspect:
            return tenant
        inspection, ssh = tenant.inspection, tenant.inspection.ssh
        trust = [*inspection.trust, self.authority]
        if ssh is not None and ssh.known_hosts is None:
            ssh = msgspec.structs.replace(ssh, known_hosts=str(self.directory / "ssh_known_hosts"))
        return msgspec.structs.replace(tenant, inspection=msgspec.structs.replace(inspection, trust=trust, ssh=ssh))

    def _ssh_tenants(self) -> list[tuple[str, str]]:
        """Pairs of a proxy and a tenant whose SSH sessions it terminates."""
        return [
            (name, tenant)
            for name, node in self._lab.nodes.items()
            if isinstance(node, ProxyNode)
            for tenant, settings in node.tenants.items()
            if settings.inspection.ssh is not None
        ]

    def _ssh_keys(self, proxy: str, tenant: str) -> Path:
        return self._run / "nodes" / proxy / "state" / "ssh" / tenant

    def _tenant_authority(self, proxy: str, tenant: str) -> str:
        return str(self._run / "nodes" / proxy / "state" / "ca" / tenant / "certificate.pem")
