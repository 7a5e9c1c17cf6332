"""Open channels as the proxy reaches them: watched by nobody, by somebody, too much to tell, ended with words."""

from __future__ import annotations

from proxy.inspect.ssh.terminal import Terminal
from proxy.inspect.ssh.watching import MAX_PER_FLUSH, OpenChannels
from proxy.session.messages import EndChannel, WatchChannel


class Stand:
    """One session with a terminal `f.1` and a channel without one, `f.2`. `pass_time` is what the loop's timers do."""

    def __init__(self):
        self.sent, self.ended, self.timers = [], [], []
        self.channels = OpenChannels(7, self.sent.append, lambda seconds, then: self.timers.append(then))
        self.terminal = Terminal((80, 24), "xterm", takes_input=False, end=lambda why: self.ended.append(("f.1", why)))
        self.channels.opened("f.1", self.terminal.end, self.terminal)
        self.channels.opened("f.2", lambda why: self.ended.append(("f.2", why)), None)

    def watch(self, channel, is_wanted=True):
        self.channels.take(WatchChannel(7, channel, is_wanted))

    def pass_time(self):
        timers, self.timers = self.timers, []
        for then in timers:
            then()
        sent, self.sent[:] = [*self.sent], []
        return sent


def shown(messages):
    return "".join(data for message in messages for _, code, data in message.events if code == "o")


def test_nothing_is_told_while_nobody_watches():
    stand = Stand()
    stand.terminal.from_origin(b"secret")
    assert stand.pass_time() == []


def test_who_watches_sees_what_was_shown_last_and_what_comes():
    stand = Stand()
    stand.terminal.from_origin(b"before ")
    stand.watch("f.1")
    stand.terminal.from_origin(b"after")
    [message] = stand.pass_time()
    assert (shown([message]), message.size, message.channel) == ("before after", (80, 24), "f.1")
    stand.terminal.resized(100, 30)
    stand.terminal.close(3)
    assert [(code, data) for message in stand.pass_time() for _, code, data in message.events] == [
        ("r", "100x30"), ("x", "3"),
    ]  # fmt: skip


def test_the_end_of_a_terminal_is_the_end_of_watching():
    stand = Stand()
    stand.watch("f.1")
    stand.terminal.close()
    assert stand.pass_time()[0].is_over


def test_who_stops_watching_is_told_no_more():
    stand = Stand()
    stand.watch("f.1")
    stand.pass_time()
    stand.watch("f.1", is_wanted=False)
    stand.terminal.from_origin(b"x")
    assert stand.pass_time() == []


def test_what_is_too_much_is_counted_and_not_held():
    stand = Stand()
    stand.watch("f.1")
    for _ in range(10):
        stand.terminal.from_origin(b"x" * (MAX_PER_FLUSH // 4))
    [message] = stand.pass_time()
    assert len(shown([message])) == MAX_PER_FLUSH
    assert message.lost == 6 * (MAX_PER_FLUSH // 4)


def test_what_is_gone_or_has_no_terminal_is_over_at_once():
    stand = Stand()
    for channel in "f.2", "f.9":
        stand.watch(channel)
    stand.channels.closed("f.1")
    stand.watch("f.1")
    assert [(message.channel, message.is_over) for message in stand.pass_time()] == [
        ("f.2", True), ("f.9", True), ("f.1", True),
    ]  # fmt: skip


def test_one_channel_is_ended_or_all():
    stand = Stand()
    stand.channels.take(EndChannel(7, "f.2", "enough"))
    stand.channels.take(EndChannel(7, "f.9", "enough"))
    assert stand.ended == [("f.2", "enough")]
    stand.channels.take(EndChannel(7, None, "all of it"))
    assert stand.ended[1:] == [("f.1", "all of it"), ("f.2", "all of it")]
