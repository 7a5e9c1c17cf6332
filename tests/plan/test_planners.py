"""Each kind of node has its planner."""

from __future__ import annotations

import typing

from oxyctl.plan.nodes import PLANNERS
from oxyctl.topology.nodes import AnyNode


def test_each_kind_of_a_lab_file_has_one_planner():
    kinds = typing.get_args(AnyNode)
    assert {kind.__name__: any(base in PLANNERS for base in kind.__mro__) for kind in kinds} == {
        kind.__name__: True for kind in kinds
    }
    assert [planned for planned in PLANNERS if not any(issubclass(kind, planned) for kind in kinds)] == []
