"""Attributes that few flows have cost nothing to the others, and are the flow's own."""

from __future__ import annotations

import sys

import pytest

from proxy.flow.details import NONE, Details, own_details
from proxy.flow.flow import Flow, new_flow_id, next_number
from tests.flows import make_flow

SOME = {"client_payload": 5, "redirect": (b"\x0a\0\0\1", 80), "parent_id": "f1", "wanted_level": "http", "virtual": 7}


@pytest.mark.parametrize("name", Details.__slots__)
def test_room_is_made_by_the_first_value_that_is_not_the_usual_one(name):
    flow, other = make_flow(), make_flow()
    usual = getattr(flow, name)
    setattr(flow, name, usual)
    assert flow.details is NONE
    setattr(flow, name, value := SOME.get(name, 1))
    assert getattr(flow, name) == value
    assert flow.details is not NONE
    assert (getattr(other, name), getattr(NONE, name)) == (usual, usual)
    setattr(flow, name, usual)
    assert getattr(flow, name) == usual


def test_bytes_that_are_counted_in_a_flows_own_details_are_the_flows():
    flow, other = make_flow(), make_flow()
    details = own_details(flow)
    details.client_payload += 5
    assert own_details(flow) is details
    assert (flow.client_payload, flow.totals().client_payload_bytes) == (5, 5)
    assert (other.client_payload, NONE.client_payload) == (0, 0)


def test_every_one_of_them_is_an_attribute_of_flows_and_no_slot():
    assert not set(Details.__slots__) & set(Flow.__slots__)
    assert all(hasattr(Flow, name) for name in Details.__slots__)


def test_a_flow_takes_as_little_as_was_measured():
    assert sys.getsizeof(make_flow()) <= 368  # docs/performance.md: a million of them


def test_names_are_made_when_they_are_asked_for_and_sort_by_time():
    tenant, carrier = (made := make_flow()).tenant, made.carrier
    number = next_number()
    flow = Flow(number, tenant, carrier, "udp", made.key, made.source, 1, made.destination, 2, 0.0, 5_000_000)
    assert flow.id == flow.id == f"{5_000:014x}{number:04x}"
    assert new_flow_id(6_000_000) > flow.id
    assert made.id == "f0"
