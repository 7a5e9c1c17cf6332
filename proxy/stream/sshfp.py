"""SSH host key fingerprints in DNS (SSHFP, RFC 4255), if a validating resolver vouches for them.

A flow has an address but no name, so the name in the address's PTR record is used: whoever may sign the reverse zone
decides which keys are valid. An answer that is unsigned, or from a resolver that is not trusted, counts for nothing.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

log = logging.getLogger(__name__)

RESOLV_CONF = "/etc/resolv.conf"
LOOKUP_TIMEOUT_S = 5.0
SHA256 = 2  # RFC 6594


async def digests(address: str, resolver: Resolver | None = None) -> list[bytes]:
    """SHA-256 digests of the host keys of the server at this address; none if they are not validated.

    `resolver`: a trusted one. Without it those of /etc/resolv.conf are used, if they are trusted (see `is_trusted`).
    """
    from dns.exception import DNSException
    from dns.reversename import from_address

    try:
        resolver = resolver or _system_resolver()
        if resolver is None:
            return []
        found = []
        for name in await _ask(resolver, from_address(address), "PTR"):
            for record in await _ask(resolver, name.target, "SSHFP"):
                if record.fp_type == SHA256:
                    found.append(bytes(record.fingerprint))
        return found
    except (DNSException, OSError) as error:
        log.info("no SSHFP for %s: %s", address, error)
        return []


def is_trusted(resolv_conf: str) -> bool:
    """Whether the resolvers in a resolv.conf(5) can be trusted to validate: they run on this machine, or it has
    `options trust-ad`."""
    lines = [line.split() for line in resolv_conf.splitlines() if line.strip() and line[0] not in "#;"]
    if any(line[0] == "options" and "trust-ad" in line[1:] for line in lines):
        return True
    servers = [line[1].partition("%")[0] for line in lines if line[0] == "nameserver" and len(line) > 1]
    try:
        return all(ip_address(each).is_loopback for each in servers)
    except ValueError:
        return False


def _system_resolver() -> Resolver | None:
    from dns.asyncresolver import Resolver

    if not is_trusted(Path(RESOLV_CONF).read_text()):
        log.warning("sshfp: the resolvers of %s are elsewhere and there is no 'options trust-ad'", RESOLV_CONF)
        return None
    return Resolver(RESOLV_CONF)


async def _ask(resolver: Resolver, name: Any, kind: str) -> list[Any]:
    """The records, if the resolver has validated them (AD, RFC 4035 3.2.3); otherwise none."""
    from dns import flags

    resolver.set_flags(flags.RD | flags.AD)
    answer = await resolver.resolve(name, kind, lifetime=LOOKUP_TIMEOUT_S, raise_on_no_answer=False)
    if not answer.response.flags & flags.AD or answer.rrset is None:
        return []
    return list(answer.rrset)
