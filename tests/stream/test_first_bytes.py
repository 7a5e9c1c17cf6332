"""What both sides of a relayed flow say first is noted in its record."""

from __future__ import annotations

import pytest

from proxy.flow.record import SSHRecord
from tests.stream.relays import relaying

CLIENT, SERVER = b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-dropbear_2022.83\r\n"


@pytest.mark.parametrize("first", ["client", "origin"])
def test_both_identification_strings_of_ssh_are_noted_whoever_speaks_first(first):
    with relaying() as scene:
        said = {"client": CLIENT, "origin": SERVER}
        for name in (first, *said.keys() - {first}):
            here, there = scene.client, scene.origin
            if name == "origin":
                here, there = there, here
            here.send(said[name] + b"\x00\x00\x05\x0c")
            scene.loop.until(lambda there=there: there.received)
        assert scene.flow.ssh == SSHRecord("SSH-2.0-OpenSSH_9.2", "SSH-2.0-dropbear_2022.83")
        assert scene.flow.detected_protocol == "ssh"


def test_what_is_said_later_is_not_looked_at():
    with relaying() as scene:
        for sender, receiver in ((scene.client, scene.origin), (scene.origin, scene.client)):
            for number, text in enumerate((b"hello", CLIENT), 1):
                sender.send(text)
                scene.loop.until(lambda receiver=receiver, number=number: receiver.received >= 5 * number)
        assert scene.flow.ssh is None
        assert scene.flow.detected_protocol is None
