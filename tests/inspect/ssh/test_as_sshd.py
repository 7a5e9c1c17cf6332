"""What clients count on because sshd does it: the order of answers, exit statuses, banners, words for strangers."""

from __future__ import annotations

import asyncio
import socket

import asyncssh
import pytest

from proxy.ca.ssh import SSHKeys
from tests.inspect.ssh.world import SSHD, USER, World, free_port, known_line, sshd, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")

BANNER = "Only for those who may.\nAll others: leave.\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("as-sshd")
    (place / "ca.pub").write_text(SSHKeys(place).user_ca("acme") + "\n")
    (place / "banner").write_text(BANNER)
    with (
        sshd(place, f"Banner {place / 'banner'}") as origin,
        World(place, origin, known_hosts=known_line(place, origin), local_forwarding=True,
              remote_forwarding=True) as world,
    ):  # fmt: skip
        yield world


def connect(world):
    return asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[], client_keys=[],
                            agent_path=None)  # fmt: skip


def test_the_banner_of_the_origin_is_shown_before_its_user_is_in(world):
    assert world.ssh("true").stderr == BANNER
    assert world.ssh("true", options=["-q"]).stderr == ""


def test_a_refusal_of_the_origin_is_read_and_no_login_seems_to_have_succeeded(world):
    done = world.ssh("true", options=["-v", "-l", "nobody-of-that-name"])
    assert done.returncode == 255
    assert "does not accept the proxy as 'nobody-of-that-name'" in done.stderr
    assert "Authenticated to" not in done.stderr


def test_a_connection_to_a_port_waits_for_earlier_requests_to_listen_at_it(world):
    async def run():
        def came(host, port):
            return lambda reader, writer: writer.write_eof()

        async with connect(world) as conn:
            ports = [free_port(), free_port()]
            asked = [asyncio.ensure_future(conn.start_server(came, "127.0.0.1", port)) for port in ports]
            await asyncio.sleep(0)  # until both are sent; nothing is waited for
            reader, writer = await conn.open_connection("127.0.0.1", ports[-1])
            assert await reader.read() == b""
            writer.close()
            for listener in await asyncio.gather(*asked):
                listener.close()

    asyncio.run(run())


@pytest.mark.parametrize("has_ended_input", [False, True])
def test_a_client_that_closes_its_channel_still_hears_how_the_program_ended(world, has_ended_input):
    """A master of OpenSSH's (`ssh -M`) does so when the program has closed its output."""

    async def run():
        class Session(asyncssh.SSHClientSession):
            def exit_status_received(self, status):
                ended.set_result(status)

        ended = asyncio.get_running_loop().create_future()
        async with connect(world) as conn:
            chan, _ = await conn.create_session(Session, "exec >&- 2>&-; read x; exit 7")
            if has_ended_input:
                chan.write_eof()
            chan.close()  # both directions: `read` finds the end
            return await asyncio.wait_for(ended, 20)

    assert asyncio.run(run()) == 7
    wait_until(lambda: world.channels()[-1].exit_status == 7, "the record of its end")


def test_who_does_not_speak_ssh_reads_so(world):
    with socket.create_connection(("127.0.0.1", world.port), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        heard = b"".join(iter(lambda: sock.recv(1_000), b""))
    assert heard == b"SSH-2.0-oxy\r\nInvalid SSH identification string.\r\n"
