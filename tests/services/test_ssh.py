"""The ssh service as OpenSSH's own programs meet it, and what only asyncssh's client can ask for."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys

import asyncssh
import pytest

from tests.services.origin import run, wait_until

BIG = 100_000_000
NOISE = (  # BIG bytes that no compression and no accident repeats
    f"{sys.executable} -c 'import hashlib, sys; sys.stdout.buffer.write(hashlib.shake_128(b\"ssh\").digest({BIG}))'"
)


def noise_digest():
    return hashlib.sha256(hashlib.shake_128(b"ssh").digest(BIG)).hexdigest()


@pytest.fixture
def login(origin, ssh):
    def call(*command, address="127.0.0.1", options=(), **more):
        return run("ssh", *ssh, *options, address, *command, **{"stdin": subprocess.DEVNULL, **more})

    return call


@pytest.fixture
def client(origin):
    """Runs a coroutine function with a connection of asyncssh's client."""

    def call(scenario, **options):
        async def go():
            port = origin.port["ssh"]
            known = str(origin.state / "known_hosts")
            settings = {"known_hosts": known, "config": None, "username": "anyone", **options}
            async with asyncssh.connect("127.0.0.1", port, **settings) as connection:
                return await asyncio.wait_for(scenario(connection), 20)

        return asyncio.run(go())

    return call


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_output_and_exit_status_are_the_commands_own(login, address, code):
    done = login(f"echo out; echo err >&2; exit {code}", address=address)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", code)


def test_a_command_that_does_not_exist(login):
    done = login("no-such-program-here")
    assert done.returncode == 127
    assert "not found" in done.stderr


def test_end_of_input_reaches_the_command(login):
    assert login("wc -c", stdin=None, input="x" * 1_000_000).stdout.strip() == "1000000"
    assert login("cat").stdout == ""


def test_a_command_that_does_not_read_its_input(login):
    assert login("exit 3", stdin=None, input="x" * 10_000_000).returncode == 3


def test_a_command_may_finish_its_output_and_read_on(login, tmp_path):
    kept = tmp_path / "kept"
    done = login(f"exec >&- 2>&-; cat > {kept}; exit 5", stdin=None, input="after my end of file")
    assert done.returncode == 5
    assert kept.read_text() == "after my end of file"


def test_a_shell_without_a_terminal_reads_commands(login):
    done = login(stdin=None, input='tty\necho "$SSH_CONNECTION"\nexit 4\n')
    assert done.returncode == 4
    assert "not a tty" in done.stdout
    assert "127.0.0.1" in done.stdout


@pytest.mark.slow
def test_a_hundred_megabytes_out_and_in(origin, ssh):
    there = f"{NOISE} | ssh {' '.join(ssh)} 127.0.0.1 sha256sum"
    back = f"ssh {' '.join(ssh)} 127.0.0.1 cat | sha256sum"
    assert run("bash", "-c", there).stdout.split()[0] == noise_digest()
    assert run("bash", "-c", f"{NOISE} | {back}").stdout.split()[0] == noise_digest()


def test_scp_and_sftp_move_files_both_ways(origin, ssh, tmp_path, address):
    data = os.urandom(3_000_000)
    (tmp_path / "here").write_bytes(data)
    host = f"[{address}]"
    for how in ([], ["-O"]):
        assert run("scp", *how, *ssh, tmp_path / "here", f"{host}:{tmp_path / 'there'}").returncode == 0
        assert run("scp", *how, *ssh, f"{host}:{tmp_path / 'there'}", tmp_path / "back").returncode == 0
        assert (tmp_path / "back").read_bytes() == data
        (tmp_path / "back").unlink()
    done = run(
        "sftp", *ssh, "-b", "-", address, input=f"ls -1 {tmp_path}\nget {tmp_path / 'there'} {tmp_path / 'back'}\n"
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/there" in done.stdout
    assert (tmp_path / "back").read_bytes() == data


def test_a_terminal_is_a_real_one(client):
    async def scenario(connection):
        async with connection.create_process(term_type="vt220", term_size=(91, 23)) as process:
            process.stdin.write("echo $TERM; tty; stty size; exit 9\n")
            output = await process.stdout.read()
            return output, (await process.wait()).exit_status

    output, status = client(scenario)
    assert "vt220" in output
    assert "/dev/pts/" in output
    assert "23 91" in output
    assert status == 9


def test_a_terminal_follows_the_clients_size(client):
    async def scenario(connection):
        command = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
        async with connection.create_process(command, term_type="xterm", term_size=(80, 24)) as process:
            await process.stdout.readuntil("ready")
            process.change_terminal_size(132, 50)
            return await process.stdout.read()

    assert "50 132" in client(scenario)


def test_ctrl_c_interrupts_what_runs_on_the_terminal(client):
    async def scenario(connection):
        async with connection.create_process("echo ready; exec sleep 1000", term_type="xterm") as process:
            await process.stdout.readuntil("ready")
            process.stdin.write("\x03")
            return await process.wait()

    assert client(scenario).exit_signal[0] == "INT"


@pytest.mark.parametrize("name", ["TERM", "KILL", "USR1"])
def test_signals_reach_the_command_and_are_reported(client, name):
    async def scenario(connection):
        async with connection.create_process("echo ready; exec sleep 1000") as process:
            await process.stdout.readuntil("ready")
            process.send_signal(name)
            return await process.wait()

    assert client(scenario).exit_signal[0] == name


def test_environment_of_the_client_is_passed_on(client):
    async def scenario(connection):
        return (await connection.run("echo $COLOUR", env={"COLOUR": "teal"})).stdout

    assert client(scenario) == "teal\n"


def test_every_way_of_authentication_is_welcome(client):
    async def scenario(connection):
        return (await connection.run("echo in")).stdout

    assert client(scenario, password="whatever", client_keys=None) == "in\n"
    assert client(scenario, client_keys=[asyncssh.generate_private_key("ssh-ed25519")]) == "in\n"


def test_forwarding_is_refused(client, origin):
    async def scenario(connection):
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", origin.port["http"])

    client(scenario)


def test_many_channels_share_a_connection(client):
    async def scenario(connection):
        done = await asyncio.gather(*(connection.run(f"echo {number}; exit {number}") for number in range(10)))
        return [(each.stdout.strip(), each.exit_status) for each in done]

    assert client(scenario) == [(str(number), number) for number in range(10)]


def test_a_client_that_vanishes_hangs_up_on_its_command(origin, ssh, tmp_path):
    pid_file = tmp_path / "pid"
    command = ["ssh", *ssh, "127.0.0.1", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    wait_until(pid_file.exists, "the command runs")
    pid = int(pid_file.read_text())
    assert pid in origin.programs()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    wait_until(lambda: pid not in origin.programs(), "the command has ended")


def test_a_client_that_does_not_read_holds_the_command_back(client):
    async def scenario(connection):
        process = await connection.create_process("yes | head -c 50000000; echo done >&2", encoding=None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.stderr.readuntil(b"done"), 0.5)
        total = 0
        while data := await process.stdout.read(1 << 20):
            total += len(data)
        return total

    assert client(scenario) == 50_000_000
