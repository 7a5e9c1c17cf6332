"""The proxy under test: `python -m proxy` with settings made from the lab."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import yaml
from msgspec import field

from oxyctl.lab.steps import INHERITED, Control, Process
from oxyctl.net.sockets import is_too_long
from oxyctl.nodes.base import Complaint, Networks, Node, Part
from proxy.settings import Bridge, ConnectedOnRamp, KernelOffRamp, Records, Settings, TenantSettings, Timeouts, suggest
from proxy.settings.model import OffRampName

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft

CONTROL, TUNNELS = "control.sock", "tunnels.sock"
SYSCTLS = {
    # ICMP datagram sockets for whoever the proxy runs as; a user namespace that maps one group accepts only that one
    "net/ipv4/ping_group_range": ["0 2147483647", "0 0"],
    "net/ipv4/ip_local_port_range": ["1024 65535"],
}


class Overrides(Part, frozen=True):
    """What a lab may change of `proxy.yaml` beyond the tenants."""

    timeouts: Timeouts = Timeouts()
    records: Records = Records()
    bridge: Bridge = Bridge()
    hooks: str | None = None  # "module:Class", found beside the lab file
    offramp: OffRampName = "kernel"  # the namespace is the lab's own
    kernel: KernelOffRamp = KernelOffRamp()


class LabTenant(TenantSettings, kw_only=True, frozen=True):
    """One customer of a proxy in a lab."""

    network: str | None = None  # its origins are in there, or behind it, and nowhere else

    def settings(self, interfaces: list[str]) -> TenantSettings:
        """As the proxy knows it, whose networks are these: each is an interface."""
        known = {each.name: getattr(self, each.name) for each in msgspec.structs.fields(TenantSettings)}
        egress = self.egress if self.network is None else f"eth{interfaces.index(self.network)}"
        return TenantSettings(**known | {"egress": egress})


class ProxyNode(Node, kw_only=True, frozen=True, tag="proxy"):
    """Clients reach it over a Unix socket in the run directory; origins, over the networks that it is in."""

    tenants: dict[str, LabTenant]
    networks: Networks = field(default_factory=dict)
    settings: Overrides = Overrides()

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """A proxy without tenants would refuse to start."""
        if not self.tenants:
            raise complain("at least one tenant is required", "tenants")
        for tenant, said in self.tenants.items():
            if said.network is not None and said.network not in self.attached:
                unknown = f"proxy '{name}' is in no network '{said.network}'{suggest(said.network, self.attached)}"
                raise complain(unknown, "tenants", tenant, "network")
            interfaces = [f"eth{number}" for number in range(len(self.attached))]
            if said.egress is not None and said.egress not in interfaces:
                unknown = f"proxy '{name}' has no interface '{said.egress}'{suggest(said.egress, interfaces)}"
                raise complain(unknown, "tenants", tenant, "egress")
        from oxyctl.lab.wan import check_routes

        if (mistake := check_routes(name, self, lab)) is not None:
            raise complain(mistake[0], *mistake[1])

    def plan(self, name: str, draft: Draft) -> None:
        """Its `proxy.yaml`, its process, and the sockets that clients and `oxyctl flows` connect to."""
        from oxyctl.lab.tunnels import EDGE_SYSCTLS, has_kernel_edge

        is_edge = has_kernel_edge(draft.lab, name, draft.abilities)
        draft.add_namespace(name, SYSCTLS | (EDGE_SYSCTLS if is_edge else {}))
        home = draft.home(name)
        draft.add_file(home / "proxy.yaml", _yaml(self._settings(name, home, draft)))
        process = Process(
            name=name,
            node=name,
            command=[sys.executable, "-m", "proxy", str(home / "proxy.yaml")],
            directory=str(draft.base if self.settings.hooks else home),  # `python -m` imports from there
            environment=self.env,
            inherit=str(home) if is_too_long(home / TUNNELS) else None,
        )
        draft.processes.append(process)
        control = str(home / CONTROL)
        draft.add_node(name, self.kind, process=name, probe=Control(socket=control), control=control)

    def _settings(self, name: str, home: Path, draft: Draft) -> Settings:
        from oxyctl.lab.wan import on_ramps, tenant_settings

        sockets = f"/proc/self/fd/{INHERITED}" if is_too_long(home / TUNNELS) else str(home)
        change = self.settings
        return Settings(
            node=name,
            tenants={
                tenant: tenant_settings(name, tenant, said.settings(list(self.attached)), draft.lab)
                for tenant, said in self.tenants.items()
            },
            onramps=[ConnectedOnRamp(path=f"{sockets}/{TUNNELS}"), *on_ramps(name, draft)],
            control=f"{sockets}/{CONTROL}",
            records=change.records,
            timeouts=change.timeouts,
            bridge=change.bridge,
            hooks=change.hooks,
            offramp=change.offramp,
            kernel=change.kernel,
        )


def _yaml(settings: Settings) -> str:
    return str(yaml.safe_dump(msgspec.to_builtins(settings), sort_keys=False))
