"""Fixtures of tests that make labs from text: a run directory of their own, a small lab, its plan."""

from __future__ import annotations

import pytest

from oxyctl.plan.make import make_plan
from oxyctl.topology.file import loads

QUICK = """
networks:
  internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}
nodes:
  edge:   {kind: proxy, networks: {internet: [10.50.0.1, "fd00:50::1"]}, tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme, user: alice@acme.example}
  web:    {kind: upstream, networks: [internet], services: {http: 80, echo: 7}}
  tool:   {kind: process, networks: [internet], command: [sleep, "60"], env: {COLOUR: blue}}
"""


@pytest.fixture
def quick():
    """The text of a lab with one node of each kind."""
    return QUICK


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run directory of this test."""
    directory = tmp_path / "run"
    monkeypatch.setenv("OXYCTL_RUN_DIR", str(directory))
    return directory


@pytest.fixture
def plan(tmp_path):
    """Make the plan of a lab file given as text."""
    return lambda text: make_plan(loads(text, "test"), tmp_path / "labs" / "test")
