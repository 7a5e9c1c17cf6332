"""Checks from the text of a lab file."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads

LAB = """
networks:
  internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}
nodes:
  edge:   {kind: proxy, networks: [internet], tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme}
  phone:  {kind: warp, proxy: edge, tenant: acme}
  web:    {kind: upstream, networks: [internet], services: {http: 80, echo: 7}}
  berlin: {kind: gre-site, tenant: acme}
checks:
"""


@pytest.fixture
def checks():
    """The checks of a lab that says these lines, each the inside of a flow mapping."""
    return lambda *lines: loads(LAB + "".join(f"  - {{{line}}}\n" for line in lines), "test").checks
