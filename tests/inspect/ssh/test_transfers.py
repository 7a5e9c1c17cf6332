"""Which commands move files, and that `file_transfer` is about all of them."""

from __future__ import annotations

import json
import subprocess

import pytest

from proxy.ca.ssh import SSHKeys
from proxy.inspect.ssh.transfers import transfer_of
from tests.inspect.ssh.world import SSHD, World, known_line, sshd

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("scp -t /tmp", "write"),
        ("scp -f x", "read"),
        ("/usr/lib/openssh/sftp-server", "sftp"),
        ("internal-sftp -R", "sftp"),
        ("rsync --server -logDtpre.iLsfxCIvu . /tmp/x", "write"),
        ("/usr/bin/rsync --server --sender -logDtpre.iLsfxCIvu . 'a b'", "read"),
        ("rsync -a a b", None),
        ("git-receive-pack 'x'", None),
        ("echo sftp-server", None),
        ("sftp-server 'unclosed", None),
        ("", None),
    ],
)
def test_transfer_of(command, found):
    assert transfer_of(command) == found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("transfers")
    (place / "ca.pub").write_text(SSHKeys(place).user_ca("acme") + "\n")
    with sshd(place) as origin, World(place, origin, known_hosts=known_line(place, origin)) as world:
        yield world


def test_an_sftp_server_that_is_started_by_name_is_read_along_and_writes_nothing(world, tmp_path):
    world.change(file_transfer="read-only")
    (tmp_path / "here").write_text("here")
    start = "/usr/lib/openssh/sftp-server"
    command = ["sftp", *world.client_options(), "-P", str(world.port), "-s", start, "-b", "-", "127.0.0.1"]
    batch = f"get {tmp_path}/here {tmp_path}/fetched\n-put {tmp_path}/here {tmp_path}/stored\n"
    done = subprocess.run(command, input=batch, capture_output=True, text=True, timeout=20)
    if "not found" in done.stderr:
        pytest.skip("there is no sftp-server")
    assert (tmp_path / "fetched").read_text() == "here"
    assert not (tmp_path / "stored").exists()
    world.channels()
    assert [(each.operation, each.refused) for each in world.files()] == [("read", False), ("write", True)]
    assert world.ssh("rsync --server . /tmp").stderr == "denied: files may be read only\n"
    world.change(file_transfer="none")
    assert world.ssh("rsync --server --sender . /tmp").stderr == "denied: file transfer is off\n"


def test_a_command_without_a_terminal_is_recorded_where_that_is_asked_for(world):
    world.change(file_transfer="read-write", record=True)
    assert world.ssh("echo unseen").returncode == 0
    assert world.channel("echo unseen").recording is None
    world.change(record_commands=True)
    done = world.ssh(program := "echo out; echo wrong >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "wrong\n", 3)
    record = world.channel(program)
    header, *events = map(json.loads, (world.place / record.recording).read_text().splitlines())
    assert header["env"] == {"TERM": "dumb"}
    assert sorted(data for _, code, data in events if code == "o") == ["out\r\n", "wrong\r\n"]


def test_the_words_about_a_recording_that_fails_are_no_output_of_the_command(world):
    world.change(record_commands=True)
    usual, world.recordings = world.recordings, None
    try:
        done = world.ssh("echo out")
    finally:
        world.recordings = usual
    assert (done.stdout, done.stderr) == ("out\n", "not recorded: no place for recordings\n")
