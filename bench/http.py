"""HTTP inspection, compared with mitmproxy, squid, a relay that inspects nothing, and no proxy; all on one core.

Policies and records are on in the proxy. A run in which a request failed is void, and reported.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
from collections.abc import Iterable, Iterator
from functools import partial

from bench import http_loads as loads
from bench.contestants import START_S, Contestant, Proxy, steered
from bench.http_origin import PLAIN_URL, TLS_URL, Origin, tls_origin
from bench.http_readers import MITMPROXY, READING, Direct, Mitmproxy, Reading, Relay, Squid, is_reached
from bench.idle_connections import settled
from bench.series import Figure, Sample
from bench.topology import BenchError, Topology, wait_for

PLAIN, TLS, H2, FRESH = "plain requests/s", "TLS requests/s", "h2 requests/s", "TLS connections/s"
DOWN, UP, P99 = "Mbit/s of 100 MB down", "Mbit/s of 100 MB up", "p99 ms at half load"
FAILED, LOST = "failed", "requests without a record"
LEADS = {TLS: 7.0, H2: 4.0, FRESH: 4.0}  # minimum ratio to mitmproxy
LEAST_MBITS, MOST_IDLE_KIB, MOST_GROWTH, LEAST_PER_CORE = 1_000, 60.0, 1.05, 0.8
IDLE, QUICK_IDLE, WARM_IDLE, PATIENCE_S = 5_000, 500, 200, 120.0
IDLE_KIB, HELD = "KiB a connection", ", idle connections held"
WARM_UP_S, SAMPLE_S = 5, 0.5
CHURN, DONE = "the proxy, connections opened and closed", "requests"
ONE_CORE, ALL_CORES = "one core for everything", "two cores for everything"


def measure(topology: Topology, *, quick: bool) -> Figure:
    """`topology.minutes` is how long memory is watched."""
    loads.require()
    figure = Figure("http", "HTTP that is read, 1 KiB, 10 connections; one core, policies and records on", (MITMPROXY,))
    seconds, rounds = (2.0, 2) if quick else (5.0, 5)
    reading = Reading(topology)
    everybody: list[Contestant] = [Direct(), Relay(), reading, Mitmproxy(), Squid()]
    with tls_origin(topology) as origin:
        with _started(topology, everybody, figure.skipped) as contestants:
            _check(topology, origin, contestants, figure)
            for _ in range(rounds):
                _take_turns(topology, origin, contestants, figure, seconds)
            lost = _lost(topology, reading, figure)
        missing = 0
        for part in (
            partial(_idle, topology, origin, figure, QUICK_IDLE if quick else IDLE),
            partial(_churn, topology, figure, 0.5 if quick else topology.minutes),
            partial(_cores, topology, figure, seconds, rounds),
        ):
            try:
                part()
            except BenchError as error:  # keep what has been measured so far
                figure.notes.append(str(error))
                missing += 1
    _aim(figure, lost)
    figure.aim_at_none("parts that could not be measured", missing)
    return figure


def _aim(figure: Figure, lost: float) -> None:
    for metric, least in LEADS.items():
        if figure.median(MITMPROXY, metric):
            figure.aim(f"times mitmproxy, {metric}", figure.ratio(READING, MITMPROXY, metric), least)
    for metric in (f"{way}, HTTP/{version}" for version in ("1.1", "2") for way in (DOWN, UP)):
        figure.aim(metric, figure.median(READING, metric), LEAST_MBITS)
    figure.aim(
        "KiB for an idle connection that is read", figure.median(READING + HELD, IDLE_KIB), MOST_IDLE_KIB, at_most=True
    )
    figure.aim(
        "memory under load, at its end of that before", figure.median(CHURN, "last/first"), MOST_GROWTH, at_most=True
    )
    if figure.median(ALL_CORES, TLS):
        more = figure.ratio(ALL_CORES, ONE_CORE, TLS) - 1
        figure.aim("more requests/s by a second core, of those of one", more, LEAST_PER_CORE)
    ours = (READING, READING + HELD, CHURN, ONE_CORE, ALL_CORES)
    failed = sum(sample[FAILED] for name in ours for sample in figure.runs.get(name, []))
    figure.aim_at_none("requests, connections and bodies that failed", failed)
    figure.aim_at_none("requests without a record", lost)


@contextlib.contextmanager
def _started(
    topology: Topology, contestants: Iterable[Contestant], skipped: dict[str, str]
) -> Iterator[list[Contestant]]:
    """Readers that run and answer over TLS; reasons for the others go into `skipped`."""
    with contextlib.ExitStack() as stack:
        running = []
        for contestant in contestants:
            try:
                contestant.start(topology, stack)
                with steered(topology, contestant):
                    wait_for(contestant.name, lambda: is_reached(topology), START_S)
            except BenchError as error:
                if isinstance(contestant, Proxy | Direct):
                    raise
                skipped[contestant.name] = str(error)
            else:
                running.append(contestant)
        yield running


def _check(topology: Topology, origin: Origin, contestants: list[Contestant], figure: Figure) -> None:
    """Check outside of the measurement that 100 MB pass intact, by their hashes."""
    for contestant in list(contestants):
        with _skipped_if_it_fails(contestant, contestants, figure), steered(topology, contestant):
            loads.check_download(topology, origin)


def _take_turns(
    topology: Topology, origin: Origin, contestants: list[Contestant], figure: Figure, seconds: float
) -> None:
    """Run each contestant once."""
    for contestant in list(contestants):
        with _skipped_if_it_fails(contestant, contestants, figure):
            figure.add(contestant.name, _sample(topology, contestant, origin, seconds))


@contextlib.contextmanager
def _skipped_if_it_fails(contestant: Contestant, contestants: list[Contestant], figure: Figure) -> Iterator[None]:
    """Remove another program that fails, with its figures, and say why. Ours must not fail."""
    try:
        yield
    except BenchError as error:
        if isinstance(contestant, Proxy | Direct):
            raise BenchError(f"{contestant.name}: {error}") from error
        contestants.remove(contestant)
        figure.runs.pop(contestant.name, None)
        figure.skipped[contestant.name] = str(error)


def _sample(topology: Topology, contestant: Contestant, origin: Origin, seconds: float) -> Sample:
    """One turn of a contestant under all loads."""
    with steered(topology, contestant):
        reports = {
            PLAIN: loads.wrk(topology, f"{PLAIN_URL}/1k", seconds),
            TLS: loads.wrk(topology, f"{TLS_URL}/1k", seconds),
            FRESH: loads.fresh(topology, "/1k", seconds),
        }
        if not isinstance(contestant, Squid):
            reports[H2] = loads.h2load(topology, "/1k", seconds)
        sample = {metric: report["done"] / report["seconds"] for metric, report in reports.items()}
        pace = loads.paced(topology, "/1k", sample[TLS] / 2, seconds)
        sample |= {P99: pace["p99_us"] / 1e3}
        for version in ("1.1",) if isinstance(contestant, Squid) else ("1.1", "2"):
            sample[f"{DOWN}, HTTP/{version}"] = loads.download(topology, origin, version)
            sample[f"{UP}, HTTP/{version}"] = loads.upload(topology, origin, version)
    failed = pace["failed"] + sum(report["failed"] for report in reports.values())
    done = pace["done"] + sum(report["done"] for report in reports.values())
    return sample | {FAILED: failed, DONE: done + 2}


def _lost(topology: Topology, reading: Reading, figure: Figure) -> float:
    """The number of answered requests without a record; those in progress at the end are not counted."""
    answered = sum(sample[DONE] for sample in figure.runs[READING])

    def records() -> int:
        with reading.requests(topology).open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

    with contextlib.suppress(BenchError):
        wait_for("the records of requests", lambda: records() >= answered, 10)
    return max(0.0, answered - records())


def _idle(topology: Topology, origin: Origin, figure: Figure, count: int) -> None:
    """Memory of an idle connection: the difference between a warm reader with few and the same one with many."""
    for contestant in (Reading(topology), Mitmproxy(), Squid()):
        if contestant.name in figure.skipped:
            continue
        try:
            figure.add(contestant.name + HELD, _idle_kib(topology, origin, contestant, count))
        except BenchError as error:
            if isinstance(contestant, Proxy):
                raise
            figure.notes.append(f"{contestant.name}, idle: {error}")


def _idle_kib(topology: Topology, origin: Origin, contestant: Contestant, count: int) -> Sample:
    with contextlib.ExitStack() as stack:
        contestant.start(topology, stack)
        stack.enter_context(steered(topology, contestant))
        wait_for(contestant.name, lambda: is_reached(topology), START_S)
        assert contestant.process is not None
        process = contestant.process
        with loads.idle(topology, origin, WARM_IDLE, PATIENCE_S):
            before = settled(lambda: loads.resident_kib(process))
            with loads.idle(topology, origin, count, PATIENCE_S) as many:
                after = settled(lambda: loads.resident_kib(process))
                answered = many["ask"]()
    failed = many["failed"] + many["done"] - answered
    return {IDLE_KIB: (after - before) / max(1, many["done"]), FAILED: failed}


def _churn(topology: Topology, figure: Figure, minutes: float) -> None:
    """Memory while TLS connections come and go, each inspected and recorded."""
    reading, samples, done = Reading(topology), list[float](), threading.Event()
    with contextlib.ExitStack() as stack:
        reading.start(topology, stack)
        stack.enter_context(steered(topology, reading))
        wait_for(reading.name, lambda: is_reached(topology), START_S)
        assert reading.process is not None
        process = reading.process
        loads.wrk(topology, f"{TLS_URL}/1k", WARM_UP_S, fresh=True)

        def watch() -> None:
            while not done.wait(SAMPLE_S):
                samples.append(loads.resident_kib(process))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            report = loads.wrk(topology, f"{TLS_URL}/1k", minutes * 60, fresh=True)
        finally:
            done.set()
            watcher.join()
    third = max(1, len(samples) // 3)
    first, last = statistics.median(samples[:third]), statistics.median(samples[-third:])
    figure.add(CHURN, {
        "MiB before": first / 1024, "MiB after": last / 1024, "last/first": last / first,
        "connections": report["done"], FAILED: report["failed"],
    })  # fmt: skip


def _cores(topology: Topology, figure: Figure, seconds: float, rounds: int) -> None:
    """The same load on one core and on two, with generators and origin; one inspector per core."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        figure.notes.append("one core only: what a second one adds is not measured")
        return
    for name, count in ((ONE_CORE, 1), (ALL_CORES, 2)) * rounds:
        with topology.on_cores(cpus[:count]), contextlib.ExitStack() as stack:
            reading = Reading(topology, inspectors=count)
            reading.start(topology, stack)
            stack.enter_context(steered(topology, reading))
            wait_for(reading.name, lambda: is_reached(topology), START_S)
            loads.wrk(topology, f"{TLS_URL}/1k", WARM_UP_S)  # until the second inspector runs
            report = loads.wrk(topology, f"{TLS_URL}/1k", seconds)
        figure.add(name, {TLS: report["done"] / report["seconds"], FAILED: report["failed"]})
