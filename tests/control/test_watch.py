"""Watching flows: every event as it happens, gaps told where they are, and a slow watcher harms nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess

from proxy.control.schema import FlowRecord, Lost
from proxy.control.watch import QUEUE_EVENTS, Watcher
from tests.records import live_record, make_record


def start_curl(path, parameters):
    command = ["curl", "-sSN", "--max-time", "20", "--unix-socket", path, f"http://x/v1/flows/watch?{parameters}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_curl_sees_events_as_they_happen(start, loop, proxy, path):
    server = start()
    with start_curl(path, "tenant=acme&protocol=tcp&protocol=udp") as watcher:
        proxy.wait_for_watchers(1)
        loop.do(lambda: proxy.emit(live_record(1, event="start", state="new")))
        assert json.loads(watcher.stdout.readline())["event"] == "start"
        for record in (
            make_record(2, tenant="globex"),
            make_record(3, protocol="icmp"),
            make_record(1),
        ):
            loop.do(lambda record=record: proxy.emit(record))
        last = json.loads(watcher.stdout.readline())
        assert (last["flow_id"], last["event"]) == ("f00000001", "end")
        loop.do(server.stop())
        assert watcher.stdout.read() == ""
    assert watcher.returncode == 0
    assert proxy.watchers == {}


def test_a_watcher_that_leaves_is_forgotten(server, proxy, path):
    with start_curl(path, "all_tenants=true") as watcher:
        proxy.wait_for_watchers(1)
        watcher.terminate()
    proxy.wait_for_watchers(0)


def test_a_watcher_that_does_not_read_loses_events_and_is_told(server, loop, proxy, path):
    events = QUEUE_EVENTS + 5000
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(20)
        slow.connect(path)
        slow.sendall(b"GET /v1/flows/watch?tenant=acme HTTP/1.1\r\nHost: x\r\n\r\n")
        proxy.wait_for_watchers(1)

        def burst():
            for number in range(events):
                proxy.emit(make_record(number))

        loop.do(burst)
        loop.do(lambda: proxy.emit(make_record(events)))  # the loop is free although nobody reads
        received, lost = read_events(slow, until=events)
    assert lost > 0
    assert len(received) + lost == events + 1
    assert received == sorted(received)


def read_events(sock, until):
    """Numbers of the flows that came, up to number `until` or a gap that holds it, and how many were lost."""
    received, lost = [], 0
    with sock.makefile("rb") as lines:
        for line in lines:
            if not line.startswith(b"{"):
                continue
            event = json.loads(line)
            if "lost" in event:
                lost += event["lost"]
            else:
                received.append(int(event["flow_id"][1:]))
            if len(received) + lost > until:
                return received, lost
    raise AssertionError("the watch ended")


def test_a_gap_stands_where_it_happened():
    async def main():
        watcher = Watcher(lambda record: True, queue_events=2)
        for number in range(5):
            watcher.put(make_record(number))
        chunks = watcher.chunks()
        first = await anext(chunks)
        watcher.put(make_record(5))
        watcher.close()
        return [
            json.loads(line) for chunk in [first, *[chunk async for chunk in chunks]] for line in chunk.splitlines()
        ]

    events = asyncio.run(main())
    assert [event.get("flow_id", event) for event in events] == ["f00000000", "f00000001", {"lost": 3}, "f00000005"]


def test_lost_and_record_cannot_be_mixed_up():
    assert "lost" not in FlowRecord.__struct_fields__
    assert Lost.__struct_fields__ == ("lost",)
