"""Policies about what is read: TLS by its server name, requests by their path."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.inspect.test_http_programs import http2
from tests.inspect.test_http_sessions import answer, curl
from tests.inspect.world import CONFIGURATION, ReadingStage, client_context, echo, speaking
from tests.netns import needs_root
from tests.running import staged

pytestmark = [pytest.mark.netns, needs_root]

POLICY = """
rules:
- {name: pinned, phase: tls, host: pinned.lab, action: do-not-inspect}
- {name: forbidden, phase: tls, host: other.lab, action: block, reason: not this one}
- {name: secret, phase: http, when: 'http.request.uri contains "secret"', action: block, reason: not for you}
- {name: calm, phase: http, when: 'http.request.uri contains "calm"', action: rate-limit, flows_per_s: 0.01}
- {name: patterned, phase: http, when: 'http.request.uri matches "^/pat+erns$"', action: block}
- {name: hidden, phase: http, when: 'http.response.code == 200 and http.request.uri contains "hidden"', action: block}
"""


class RuledStage(ReadingStage):
    """The same with a policy."""

    def __init__(self, directory: str) -> None:
        Path(directory, "policy.yaml").write_text(POLICY)
        super().__init__(directory, level="http", configuration=CONFIGURATION + "policies: [policy.yaml]\n")


@pytest.fixture(scope="module")
def stage():
    with staged(RuledStage) as stage:
        yield stage


def test_one_host_is_read_and_another_is_passed_with_its_own_certificate(stage, laptop):
    port = stage.serve(echo, stage.server_context("pinned.lab"))
    trust = client_context(f"{stage.directory}/roots.pem")
    with speaking(laptop, port, trust, "pinned.lab") as sock:
        served = ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True))
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    assert served in Path(stage.directory, "pinned.lab.pem").read_text()
    record = stage.record(port)
    assert (record.level, record.tls.action, record.tls.sni) == ("stream", "pass", "pinned.lab")
    assert "pinned" in [each.rule for each in record.decisions]


def test_a_host_that_is_forbidden_ends_with_an_alert(stage, laptop):
    port = stage.serve(echo, stage.server_context("other.lab"))
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)access.denied"),
        speaking(laptop, port, client_context(stage.client_trust), "other.lab"),
    ):
        pass
    record = stage.record(port)
    assert (record.close_reason, record.verdict) == ("denied", "denied")
    assert [each.rule for each in record.decisions if each.stage == "tls"] == ["forbidden"]


def test_a_request_that_is_forbidden_is_answered_with_a_page(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    assert curl(stage, laptop, port).stdout.endswith(" 200")
    where = ("--next", "-sS", "--cacert", stage.client_trust, "--resolve", f"wiki.lab:{port}:10.50.0.10")
    done = curl(stage, laptop, port, "-o", "/dev/null", f"https://wiki.lab:{port}/secret", *where, "-w", "%{http_code}")
    assert "403" in done.stdout, done


def test_an_upload_over_http_2_that_is_forbidden_is_answered_with_a_page(stage, laptop, tmp_path):
    port = stage.serve(http2, stage.server_context(alpn=("h2",)))
    (tmp_path / "up").write_bytes(bytes(2_000_000))
    done = curl(stage, laptop, port, "--http2", "-T", str(tmp_path / "up"), "-o", "/dev/null", path="/secret")
    assert done.stdout == "\n2 403", done.stderr  # curl 7.88 says 000 when it is told to stop in the same piece


def test_limits_are_the_proxys_and_rules_about_responses_are_asked_when_those_are_there(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    paths = ("/calm", "/calm", "/hidden", "/patterns")
    said = [curl(stage, laptop, port, "-o", "/dev/null", path=path).stdout for path in paths]
    assert said == ["\n1.1 200", "\n1.1 429", "\n1.1 403", "\n1.1 403"]
