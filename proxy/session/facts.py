"""Facts about a session besides its bytes: the flow, and TLS on each side."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

TLSVersion = Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]


class FlowFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The proxy's facts about the flow of a session."""

    id: str
    tenant: str
    onramp: str
    tunnel: str
    src: str
    src_port: int
    dst: str
    dst_port: int
    network: str = "default"
    user: str | None = None
    device: str | None = None
    policy_facts: dict[str, Any] = {}  # of the flow (`proxy.policy.carried.flow_facts`)


class TLSFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The negotiated parameters on one side of a session whose TLS ends in the proxy."""

    version: str  # TLSv1.3
    cipher: str  # TLS_AES_128_GCM_SHA256
    sni: str | None = None
    alpn: str | None = None  # None: not negotiated
    is_resumed: bool = False
    is_verified: bool = True  # on the origin's side: whether its certificate is valid
