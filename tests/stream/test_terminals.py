"""Watchers of terminals: one question for all of them, and an end for each."""

from __future__ import annotations

from proxy.session.messages import TerminalOutput, WatchChannel
from proxy.stream.terminals import Terminals


class Inspector:
    def __init__(self):
        self.asked = []

    def send(self, message, descriptors=()):
        self.asked.append(message)


def test_however_many_watch_the_inspector_is_asked_once():
    terminals, inspector, first, second = Terminals(), Inspector(), [], []
    leave = terminals.watch(1, inspector, "f.1", first.append)
    terminals.shown(TerminalOutput(1, "f.1", [(0.0, "o", "a")], size=(80, 24)))
    leave_too = terminals.watch(1, inspector, "f.1", second.append)
    terminals.shown(TerminalOutput(1, "f.1", [(1.0, "o", "b")]))
    assert [message.events for message in first] == [[(0.0, "o", "a")], [(1.0, "o", "b")]]
    assert [(message.size, message.events) for message in second] == [((80, 24), []), (None, [(1.0, "o", "b")])]
    leave()
    leave()
    leave_too()
    assert inspector.asked == [WatchChannel(1, "f.1", is_wanted=True), WatchChannel(1, "f.1", is_wanted=False)]


def test_the_end_of_a_session_is_told_to_its_own_watchers_once():
    terminals, inspector, told, others = Terminals(), Inspector(), [], []
    leave = terminals.watch(1, inspector, "f.1", told.append)
    terminals.watch(2, inspector, "g.1", others.append)
    terminals.ended(1)
    terminals.ended(1)
    assert [message.is_over for message in told] == [True]
    assert others == []
    leave()
    assert [message.is_wanted for message in inspector.asked] == [True, True]
