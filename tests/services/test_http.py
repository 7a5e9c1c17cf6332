"""The http and https services as curl meets them."""

from __future__ import annotations

import hashlib
import json

import pytest

from oxyctl.services.http.content import PATTERN, PERIOD
from tests.services.conftest import CONTENT
from tests.services.origin import needs, run

MIB = 1 << 20


@pytest.fixture(params=["http", "https"])
def scheme(request):
    return request.param


def expected(start, stop):
    whole = PATTERN * (stop // PERIOD + 1)
    return whole[start:stop]


def test_the_page_tells_who_the_client_is(origin, curl, address, scheme):
    facts = json.loads(curl("-H", "Accept: application/json", origin.url("/?q=1", address, scheme)))
    assert facts["node"] == "web"
    assert facts["client"] == facts["server"] == address
    assert (facts["scheme"], facts["method"], facts["path"]) == (scheme, "GET", "/?q=1")
    assert f"client       {address}\n" in curl(origin.url("/", address, scheme))


@pytest.mark.parametrize("size", [0, 1, PERIOD - 1, PERIOD, 5 * MIB + 3])
def test_bytes_are_the_pattern_repeated(origin, curl, tmp_path, scheme, size):
    curl("-o", tmp_path / "got", origin.url(f"/bytes/{size}", scheme=scheme))
    got = (tmp_path / "got").read_bytes() if size else b""
    assert got == expected(0, size)
    assert curl(origin.url(f"/bytes/{size}.sha256")).strip() == hashlib.sha256(got).hexdigest()


def test_a_range_is_that_part_of_the_content(origin, curl, tmp_path):
    start, stop = PERIOD - 10, 3 * PERIOD + 5
    curl(
        "-o", tmp_path / "got", "-D", tmp_path / "head", "-r", f"{start}-{stop - 1}", origin.url(f"/bytes/{4 * PERIOD}")
    )
    assert (tmp_path / "got").read_bytes() == expected(start, stop)
    head = (tmp_path / "head").read_text()
    assert head.startswith("HTTP/1.1 206 ")
    assert f"content-range: bytes {start}-{stop - 1}/{4 * PERIOD}\n" in head.lower().replace("\r", "")


def test_head_has_the_length_and_no_body(origin, curl):
    assert "content-length: 1099511627776" in curl("-I", origin.url(f"/bytes/{1 << 40}")).lower()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/status/204", 204),
        ("/status/418", 418),
        ("/status/503", 503),
        ("/status/101", 400),
        ("/status/x", 400),
        ("/nothing", 404),
        ("/bytes/-1", 400),
        (f"/bytes/{(1 << 40) + 1}", 400),
        ("/bytes/5.md5", 404),
        ("/delay/nan", 400),
        ("/delay/1e9", 400),
        ("/echo", 405),
    ],
)
def test_status(origin, curl, path, status):
    assert curl("-o", "/dev/null", "-w", "%{http_code}", origin.url(path)) == str(status)


def test_headers_come_back_as_sent(origin, curl):
    sent = json.loads(curl("-H", "X-One: 1", "-H", "X-One: 2", origin.url("/headers")))["headers"]
    assert [value for name, value in sent if name == "x-one"] == ["1", "2"]


@pytest.mark.parametrize("chunked", [False, True])
def test_echo_and_sink_get_every_byte(origin, curl, tmp_path, scheme, chunked):
    body = tmp_path / "body"
    body.write_bytes(expected(7, 3 * MIB))
    how = ["-H", "Transfer-Encoding: chunked"] if chunked else []
    curl(*how, "-X", "POST", "-T", body, "-o", tmp_path / "back", origin.url("/echo", scheme=scheme))
    assert (tmp_path / "back").read_bytes() == body.read_bytes()
    told = json.loads(curl(*how, "-X", "POST", "-T", body, origin.url("/sink", scheme=scheme)))
    assert told == {"bytes": 3 * MIB - 7, "sha256": hashlib.sha256(body.read_bytes()).hexdigest()}
    assert json.loads(curl("-d", "abc", origin.url("/sink?sha256=no"))) == {"bytes": 3, "sha256": None}


def test_delay_and_drip_take_their_time(origin, curl):
    assert float(curl("-o", "/dev/null", "-w", "%{time_total}", origin.url("/delay/0.3"))) >= 0.3
    assert float(curl("-o", "/dev/null", "-w", "%{time_total}", origin.url("/drip/4?interval=0.1"))) >= 0.3
    assert curl(origin.url("/drip/9?interval=0")) == "." * 9


def test_one_connection_serves_many_requests(origin, curl, scheme):
    urls = [origin.url(path, scheme=scheme) for path in ("/", "/nothing", "/bytes/100", "/status/204")]
    sinks = [option for _ in urls for option in ("-o", "/dev/null")]
    assert curl("-w", "%{num_connects}\n", *sinks, *urls).split() == ["1", "0", "0", "0"]


def test_five_hundred_parallel_requests(origin, curl):
    done = curl(
        *(
            "--no-globoff",
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "300",
            "-w",
            "%{http_code} %{size_download}\n",
            "-o",
            "/dev/null",
        ),
        origin.url("/bytes/10000?[1-500]"),
    )
    assert done.split("\n")[:-1] == ["200 10000"] * 500


def test_files_below_root(origin, curl, tmp_path, address, scheme):
    curl("-o", tmp_path / "got", origin.url("/file.bin", address, scheme))
    assert (tmp_path / "got").read_bytes() == CONTENT
    curl("-o", tmp_path / "part", "-r", "-1000", origin.url("/file.bin", address, scheme))
    assert (tmp_path / "part").read_bytes() == CONTENT[-1000:]
    assert curl("-w", "%{http_code}", origin.url("/empty.txt", address, scheme)) == "200"
    assert curl(origin.url("/docs/", address, scheme)) == "<p>index</p>"


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/way-out", "/docs/..%2f..%2fsecret.txt"])
def test_nothing_outside_root_is_served(origin, curl, path):
    answer = curl("--path-as-is", "-w", "%{http_code}", origin.url(path))
    assert answer.endswith("404")
    assert "outside" not in answer


def test_the_certificate_is_good_for_name_and_addresses(origin, curl, address):
    needs("openssl")
    assert curl("--resolve", f"web:{origin.port['https']}:{address}", f"https://web:{origin.port['https']}/")
    done = run(
        *("openssl", "s_client", "-connect", origin.url("", address, "https")[8:], "-CAfile", origin.state / "ca.pem"),
        *("-x509_strict", "-verify_return_error", "-verify_ip", address, "-alpn", "h2,http/1.1"),
        stdin=-3,
    )
    assert "Verify return code: 0 (ok)" in done.stdout
    assert "ALPN protocol: h2" in done.stdout


@pytest.mark.slow
def test_a_gigabyte_arrives_whole(origin, curl):
    digest = hashlib.sha256()
    url = origin.url(f"/bytes/{1 << 30}")
    done = run("sh", "-c", f"curl -sS {url} | sha256sum", timeout=170)
    for start in range(0, 1 << 30, PERIOD):
        digest.update(PATTERN[: (1 << 30) - start])
    assert done.stdout.split()[0] == digest.hexdigest()
