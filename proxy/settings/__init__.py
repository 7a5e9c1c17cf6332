"""Typed configuration: YAML documents with positions, and the structure of `proxy.yaml`."""

from proxy.settings.document import Document, DocumentError, parse, read, suggest
from proxy.settings.model import (
    Bridge,
    ConnectedOnRamp,
    InterfaceOnRamp,
    KernelOffRamp,
    Limits,
    OnRamp,
    Records,
    Settings,
    TenantSettings,
    Timeouts,
    TunOnRamp,
    load,
)
from proxy.settings.sites import GueOnRamp, NetworkSettings, Probe, Route, Site

__all__ = [
    "Bridge",
    "ConnectedOnRamp",
    "Document",
    "DocumentError",
    "GueOnRamp",
    "InterfaceOnRamp",
    "KernelOffRamp",
    "Limits",
    "NetworkSettings",
    "OnRamp",
    "Probe",
    "Records",
    "Route",
    "Settings",
    "Site",
    "TenantSettings",
    "Timeouts",
    "TunOnRamp",
    "load",
    "parse",
    "read",
    "suggest",
]
