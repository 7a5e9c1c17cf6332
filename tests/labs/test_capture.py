"""`oxyctl capture` of a real lab, as root and rootless: what tshark reads is what passed."""

from __future__ import annotations

import collections
import json
import os
import select
import shutil
import signal
import subprocess

import pytest

from oxyctl.capture.recording import Recording
from oxyctl.errors import OxyctlError
from tests.labs.conftest import eventually

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
    pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed"),
]
FIRST, BETWEEN, LAST = 101, 102, 103  # bytes of data: which echo request it is
TIMESTAMP = 8  # what ping puts before them, and tshark tells apart
WAIT_S = 20


@pytest.fixture(scope="module")
def lab(shared_machine):
    """The quickstart, up."""
    shared_machine.oxyctl("lab", "up", "quickstart")
    return shared_machine


def begin(machine, *arguments, **options):
    """Start a capture; everything that passes from now on is captured."""
    process = machine.start("capture", *arguments, **options)
    readable, _, _ = select.select([process.stderr], [], [], WAIT_S)
    assert readable, "the capture does not begin"
    said = process.stderr.readline()
    assert said.startswith("capturing at "), said + process.stderr.read()
    return process


def end(process, number=signal.SIGINT):
    """Ask it to end; what it said."""
    process.send_signal(number)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said
    return said


def ping(machine, *rounds):
    """From the laptop to the origin, one after the other: each round is a size, or a size, a count and a family."""
    script = []
    for each in rounds:
        size, count, family = each if isinstance(each, tuple) else (each, 1, 4)
        script.append(f"ping -{family} -q -c{count} -i0.02 -W2 -s{size + TIMESTAMP} web")
    machine.exec("laptop", "sh", "-ec", "\n".join(script))


def tshark(file, *fields, where=None):
    """The fields of each packet. It must read the file without a complaint."""
    command = ["tshark", "-r", str(file), "-T", "fields", *(f"-e{field}" for field in fields)]
    done = subprocess.run(
        [*command, *(["-Y", where] if where else [])], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if line and not line.startswith("Running as user")]
    assert (done.returncode, complaints) == (0, [])
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_every_packet_between_two_canaries_is_there_with_its_node_and_tenant(lab):
    file = lab.directory / "all.pcapng"
    process = begin(lab, "all", "-w", str(file))
    ping(lab, FIRST, (BETWEEN, 7, 4), (BETWEEN, 3, 6), LAST)
    said = end(process)
    assert "0 dropped" in said

    packets = tshark(file, "frame.interface_name", "frame.comment", "ip.version", "data.len", where="data.len > 100")
    for interface, comment in (
        ("laptop:warp0", "node laptop, tenant acme"),
        ("edge:eth0", "node edge"),
        ("web:eth0", "node web"),
    ):
        found = [(version, int(size)) for name, _, version, size in packets if name == interface]
        # a request and its reply each
        of_ipv6 = BETWEEN + TIMESTAMP  # tshark does not tell it apart there
        assert collections.Counter(found) == {("4", FIRST): 2, ("4", BETWEEN): 14, ("6", of_ipv6): 6, ("4", LAST): 2}
        assert (found[0], found[-1]) == (("4", FIRST), ("4", LAST))
        assert {about for name, about, _, _ in packets if name == interface} == {comment}
    times = [float(time) for [time] in tshark(file, "frame.time_epoch")]
    assert times == sorted(times)
    out = tshark(file, "frame.interface_name", where=f"data.len == {BETWEEN} && frame.packet_flags_direction == 2")
    assert collections.Counter(name for [name] in out) == {"laptop:warp0": 7, "edge:eth0": 7, "web:eth0": 7}


def test_filters_counts_targets_and_formats(lab):
    file = lab.directory / "some.pcapng"
    begun = begin(lab, "web", "laptop:warp0", "-w", file, "--filter", "icmp[0] == 8", "-s", "60", "--format", "json")
    ping(lab, (FIRST, 3, 4))
    begun.send_signal(signal.SIGTERM)
    out, said = begun.communicate(timeout=WAIT_S)
    assert begun.returncode == 0, said
    envelope = json.loads(out)
    assert (envelope["schema"], envelope["kind"]) == ("oxyctl/1", "capture")
    assert {(i["node"], i["interface"], i["tenant"], i["packets"], i["dropped"]) for i in envelope["items"]} == {
        ("web", "eth0", None, 3, 0),
        ("laptop", "warp0", "acme", 3, 0),
    }
    lengths = tshark(file, "frame.interface_name", "frame.cap_len", "frame.len")
    assert sorted(lengths) == [["laptop:warp0", "60", "137"]] * 3 + [["web:eth0", "60", "151"]] * 3

    lines = begin(lab, "internet", "--count", "4", "--filter", "icmp")
    ping(lab, (FIRST, 2, 4))
    out, said = lines.communicate(timeout=WAIT_S)
    assert lines.returncode == 0, said
    assert len(out.splitlines()) == 4
    assert "edge:eth0 out 10.50.0.1 > 10.50.0.10 ICMP echo request" in out.splitlines()[0]

    if lab.is_rootless:
        return  # what is refused is so for every user
    assert "did you mean 'laptop'" in lab.oxyctl("capture", "labtop", code=4).stderr
    assert "did you mean 'eth0'" in lab.oxyctl("capture", "web:eth9", code=4).stderr
    lab.oxyctl("capture", "web", "--filter", "no such words", "-w", lab.directory / "never", code=2)
    assert not (lab.directory / "never").exists()
    assert "Is a directory" in lab.oxyctl("capture", "web", "-w", lab.directory, code=1).stderr
    lab.oxyctl("capture", "web", "--ring", "1MB", code=2)
    lab.oxyctl("capture", "web", "--lab", "other", code=5)


GROWING = """
name: growing
networks: {lan: {subnets: [10.0.0.0/24]}}
nodes:
  web:  {kind: process, networks: [lan], command: [sleep, "600"]}
  echo: {kind: process, networks: [lan], command: [sleep, "600"]}
"""


def test_what_apply_adds_or_replaces_while_all_is_captured_is_captured_too(machine):
    file = machine.file("growing.yaml", GROWING)
    machine.oxyctl("lab", "up", file)
    process = begin(machine, "all", "-q", "-w", machine.directory / "all.pcapng", "--filter", "icmp")
    ring = begin(machine, "all", "-q", "-w", machine.directory / "ring.pcapng", "-f", "icmp", "--ring", "16KiB,9")
    captures = (process, ring)

    def become(text, *titles):
        file.write_text(text)
        machine.oxyctl("lab", "apply", file)
        for capture in captures:
            assert sorted(capture.stderr.readline() for _ in titles) == [f"capturing at {t} as well\n" for t in titles]

    def send(size, source, target):
        machine.exec(source, "ping", "-q", "-c5", "-i0.02", "-W2", "-s", str(size), target)

    send(FIRST, "web", "10.0.0.2")
    more = GROWING.replace("networks: {lan:", "networks: {back: {subnets: [10.9.0.0/24]}, lan:").replace(
        'networks: [lan], command: [sleep, "600"]}\n  echo', 'networks: [lan, back], command: [sleep, "600"]}\n  echo'
    )
    more += '  late: {kind: process, networks: [back, lan], command: [sleep, "600"]}\n'
    become(more, "late:eth0", "late:eth1", "web:eth1")
    send(BETWEEN, "late", "10.9.0.1")
    become(more.replace("echo: {kind: process", "echo: {kind: process, env: {A: b}"), "echo:eth0")
    send(LAST, "web", "10.0.0.2")
    for capture in captures:
        assert "0 dropped" in end(capture)
    for name in ("all", "ring-*"):
        found = collections.Counter()
        for part in sorted(machine.directory.glob(f"{name}.pcapng")):
            for title, size in tshark(part, "frame.interface_name", "data.len", where="data.len > 10"):
                found[title, int(size) + TIMESTAMP] += 1
        ends = {FIRST: ("web:eth0", "echo:eth0"), BETWEEN: ("late:eth0", "web:eth1"), LAST: ("web:eth0", "echo:eth0")}
        assert found == {(title, size): 10 for size, titles in ends.items() for title in titles}, name


def test_a_stream_a_ring_a_reader_that_goes_and_a_lab_that_ends(machine):
    machine.oxyctl("lab", "up", "quickstart")
    ring = begin(machine, "all", "-w", machine.directory / "ring.pcapng", "--ring", "16KiB,2", "--filter", "icmp")
    reading = begin(machine, "laptop", "--filter", "icmp")
    ping(machine, (1000, 20, 4))
    assert "echo request" in reading.stdout.readline()
    reading.stdout.close()
    ping(machine, FIRST)
    assert reading.wait(WAIT_S) == 0, reading.stderr.read()
    reading.stderr.close()

    file = machine.directory / "stream.pcapng"
    with file.open("wb") as out:
        piped = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out)
        streaming = begin(machine, "laptop", "-w", "-", "--filter", "icmp", stdout=piped.stdin)
        piped.stdin.close()
        ping(machine, FIRST, LAST)

    machine.oxyctl("lab", "down")
    for process in (ring, streaming):
        _, said = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
        assert "the lab has ended" in said
    assert piped.wait(WAIT_S) == 0
    assert [int(size) for [size] in tshark(file, "data.len")] == [FIRST, FIRST, LAST, LAST]

    files = sorted(machine.directory.glob("ring-*.pcapng"))
    assert len(files) == 2
    assert files[0].name > "ring-00001.pcapng"
    assert all(file.stat().st_size <= 16 << 10 for file in files)
    kept = [int(size) for file in files for [size] in tshark(file, "data.len")]
    assert kept[-12:] == [FIRST] * 6 + [LAST] * 6


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_full_disk_is_said_and_leaves_a_file_that_can_be_read(lab):
    if lab.is_rootless:
        pytest.skip("the same for every user")
    place = lab.directory / "small"
    place.mkdir()
    script = 'mount -t tmpfs -o size=64k small "$0" && "$@"; code=$?; cp "$0/x" "$0.copy"; exit $code'
    wrapped = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(place)]
    command = [*wrapped, *lab.command("capture", "all", "-w", place / "x")]
    process = subprocess.Popen(command, env=lab.environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("capturing at ")
    ping(lab, (1000, 30, 4))
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "the disk is full" in said
    copy = lab.directory / "small.copy"
    assert 32 << 10 < copy.stat().st_size <= 64 << 10
    assert len(tshark(copy, "frame.number")) > 20


def test_a_program_records_a_lab(machine, monkeypatch, tmp_path):
    if machine.is_rootless:
        pytest.skip("this process is root, and enters its own labs only")
    machine.oxyctl("lab", "up", "quickstart")
    monkeypatch.setenv("OXYCTL_RUN_DIR", str(machine.run))
    with pytest.raises(OxyctlError, match="no lab 'other' is running"):
        Recording("other", tmp_path).start()
    with Recording("quickstart", tmp_path, filter_="icmp") as recording:
        ping(machine, FIRST, LAST)
    sizes = tshark(recording.file, "data.len", where='frame.interface_name == "laptop:warp0"')
    assert [int(size) for [size] in sizes] == [FIRST, FIRST, LAST, LAST]
    assert "0 dropped" in recording.log.read_text()
    again = Recording("quickstart", tmp_path)
    again.start()
    machine.oxyctl("lab", "down")
    assert again.stop() == tmp_path / "capture.pcapng"
    eventually(lambda: "the lab has ended" in again.log.read_text(), "the end of the lab is noted")
