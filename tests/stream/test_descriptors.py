"""Descriptors among tenants: shares that nobody can take away, and sessions that are given up for them."""

from __future__ import annotations

import pytest

from proxy.stream.descriptors import MAX_EVICTION_CHECKS, Descriptors
from tests.flows import make_tenant


class Session:
    def __init__(self, descriptors, tenant):
        self.descriptors, self.tenant, self.moved, self.is_gone = descriptors, tenant, 0, False

    def activity(self):
        return self.moved

    def evict(self):
        self.is_gone = True
        self.descriptors.give(self.tenant, 1, self)


@pytest.fixture
def acme():
    return make_tenant("acme")


@pytest.fixture
def globex():
    return make_tenant("globex")


def open_session(descriptors, tenant):
    session = Session(descriptors, tenant)
    return session if descriptors.take(tenant, 1, session) else None


def test_a_tenant_alone_may_have_all_and_gets_back_what_it_gives(acme):
    descriptors = Descriptors(10, [acme])
    assert [descriptors.take(acme, 2) for _ in range(6)] == [True] * 5 + [False]
    descriptors.give(acme, 2)
    assert (descriptors.take(acme, 2), descriptors.held_by(acme), descriptors.free) == (True, 10, 0)


def test_each_tenant_reaches_its_share_whatever_another_holds_of_what_cannot_be_given_up(acme, globex):
    descriptors = Descriptors(100, [acme, globex])
    taken = 0
    while descriptors.take(acme, 1):
        taken += 1
    assert taken == 75
    assert [descriptors.take(globex, 5) for _ in range(6)] == [True] * 5 + [False]
    assert descriptors.free == 0


def test_the_shares_of_those_who_come_later_are_kept_for_them():
    tenants = [make_tenant(f"t{number}") for number in range(10)]
    descriptors = Descriptors(1000, tenants)
    while descriptors.take(tenants[0], 1):
        pass
    assert all(descriptors.take(tenant, 1) for tenant in tenants[1:] for _ in range(50))
    assert descriptors.free == 0


def test_beyond_its_share_the_richest_gives_up_sessions_until_both_hold_the_same(acme, globex):
    descriptors = Descriptors(100, [acme, globex])
    sessions = [open_session(descriptors, acme) for _ in range(200)]
    assert (descriptors.held_by(acme), None in sessions) == (75, False)
    taken = 0
    while descriptors.take(globex, 1):
        taken += 1
    assert (descriptors.held_by(acme), descriptors.held_by(globex), taken) == (50, 50, 50)
    assert open_session(descriptors, acme) is not None  # for one of its own


def test_connections_of_the_richest_cost_a_smaller_tenant_no_session(acme, globex):
    descriptors = Descriptors(100, [acme, globex])
    sessions = [open_session(descriptors, globex) for _ in range(30)]
    while descriptors.take(acme, 1):
        pass
    assert not any(session.is_gone for session in sessions)


def test_the_longest_idle_goes_first_and_what_moved_has_a_second_chance(acme):
    descriptors = Descriptors(4, [acme])
    sessions = [open_session(descriptors, acme) for _ in range(4)]
    sessions[0].moved = sessions[2].moved = 5
    later = [open_session(descriptors, acme) for _ in range(3)]
    assert [session.is_gone for session in sessions] == [True, True, False, True]
    assert not any(session.is_gone for session in later)


def test_looking_for_an_idle_one_has_an_end_when_all_move(acme):
    asked = []

    class Busy(Session):
        def activity(self):
            asked.append(self)
            self.moved += 1
            return self.moved

    many = 10 * MAX_EVICTION_CHECKS
    descriptors = Descriptors(many, [acme])
    for _ in range(many):
        session = Busy(descriptors, acme)
        assert descriptors.take(acme, 1, session)
    assert descriptors.take(acme, 1)
    assert len(asked) == MAX_EVICTION_CHECKS
