"""A world for each test, taken down after it; what the agents said is in the report of a failure."""

from __future__ import annotations

import pytest

from tests.agents.sites.world import World
from tests.netns import needs_root

TESTS_IN_NAMESPACES = ("test_gre", "test_gue", "test_edge", "test_life", "test_probes")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in TESTS_IN_NAMESPACES and "tests/agents/sites" in str(item.path):
            item.add_marker(pytest.mark.netns)
            item.add_marker(needs_root)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()
