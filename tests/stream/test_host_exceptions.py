"""Hosts that are passed for a while: for one client or for all, and no more of them than a tenant may have."""

from __future__ import annotations

import pytest

from proxy.session.messages import HostException
from proxy.stream.host_exceptions import MAX_EXCEPTIONS, HostExceptions


@pytest.fixture
def sent():
    return []


@pytest.fixture
def exceptions(sent):
    return HostExceptions(sent.append)


def found(host, client=""):
    return HostException(7, host, "why", client)


def known(exceptions):
    return {(each.tenant, each.host, each.client) for each in exceptions}


def test_each_is_told_once_and_again_when_it_is_over(exceptions, sent):
    for now in (0.0, 5.0):  # what is known is not prolonged
        exceptions.add("acme", found("a.lab", "10.0.0.1"), 10.0, now)
    exceptions.add("acme", found("a.lab", "10.0.0.2"), 10.0, 5.0)
    exceptions.add("globex", found("a.lab"), 10.0, 5.0)
    exceptions.expire(10.0)
    assert known(exceptions) == {("acme", "a.lab", "10.0.0.2"), ("globex", "a.lab", "")}
    told = [(each.tenant, each.client, each.is_over) for each in sent]
    assert told == [
        ("acme", "10.0.0.1", False), ("acme", "10.0.0.2", False), ("globex", "", False), ("acme", "10.0.0.1", True)
    ]  # fmt: skip


def test_a_tenant_with_many_forgets_its_own_oldest(exceptions, sent):
    exceptions.add("globex", found("kept.lab"), 10.0, 0.0)
    for number in range(MAX_EXCEPTIONS + 2):
        exceptions.add("acme", found(f"{number}.lab"), 10.0, 0.0)
    assert [each.host for each in sent if each.is_over] == ["0.lab", "1.lab"]
    assert len(known(exceptions)) == MAX_EXCEPTIONS + 1
    assert ("globex", "kept.lab", "") in known(exceptions)
