"""The documents name every hook, and nothing that is none."""

from __future__ import annotations

import inspect
import re

from proxy.hooks import Hooks
from proxy.hooks.points import DECIDING, NAMES
from proxy.hooks.runner import HookRunner
from tests.meta.imports import ROOT

LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text()


def test_every_point_is_drawn_and_described():
    drawing, table = LIFECYCLE[LIFECYCLE.index("## Hooks") :].split("| hook | when |")
    assert {name for name in NAMES if not re.search(rf"\b{name}\b", drawing)} == set()
    assert {name for name in NAMES if f"`{name}`" not in table} == set()


def test_every_hook_is_async_documented_and_does_nothing():
    for name in NAMES:
        method = getattr(Hooks, name)
        assert inspect.iscoroutinefunction(method), name
        assert method.__doc__, name
        assert not HookRunner(Hooks()).has(name)
    assert {name for name in NAMES if "Decides:" in getattr(Hooks, name).__doc__} == DECIDING
