"""Sites and routes in proxy.yaml: what is accepted, and how a mistake is told."""

from __future__ import annotations

import copy

import pytest
import yaml

from proxy.settings import DocumentError, GueOnRamp, load
from proxy.settings.parts import endpoint
from proxy.settings.sites import MAX_TOKEN_BYTES
from proxy.wire import gue

SITE = {"name": "berlin", "tenant": "acme", "id": 1, "peers": ["192.0.2.7:6080"], "prefixes": ["10.1.0.0/24"]}
ROUTES = [{"prefix": "10.1.0.0/24", "via": "site:berlin"}, {"prefix": "::/0", "via": "stream"}]
WHOLE = {
    "tenants": {"acme": {"id": 7, "networks": {"default": {"routes": ROUTES}, "lab": {}}}, "globex": {"id": 8}},
    "onramps": [{"kind": "gue", "listen": "192.0.2.1:6080", "sites": [SITE]}],
}


@pytest.fixture
def loaded(tmp_path):
    def call(data):
        path = tmp_path / "proxy.yaml"
        path.write_text(yaml.safe_dump(data))
        return load(path)

    return call


def changed(*, site=None, sites=(), routes=None, listen=None, tenants=None):
    data = copy.deepcopy(WHOLE)
    data["onramps"][0]["sites"] = [{**SITE, **(site or {})}, *({**SITE, **each} for each in sites)]
    if routes is not None:
        data["tenants"]["acme"]["networks"]["default"]["routes"] = routes
    if listen is not None:
        data["onramps"][0]["listen"] = listen
    data["tenants"].update(tenants or {})
    return data


def test_defaults_of_a_site_and_of_a_route(loaded):
    settings = loaded(WHOLE)
    (ramp,) = settings.onramps
    assert isinstance(ramp, GueOnRamp)
    (site,) = ramp.sites
    assert (site.network, site.context, site.version, site.token, site.mtu, site.probe) == (
        "default", "required", 0, None, 1400, None,
    )  # fmt: skip
    route = settings.tenants["acme"].networks["default"].routes[0]
    assert (route.priority, route.weight, route.level) == (100, 1, None)
    assert settings.tenants["acme"].networks["lab"].routes == []


def test_two_sites_may_announce_one_prefix(loaded):
    other = {"name": "paris", "id": 2, "peers": ["192.0.2.8:6080"]}
    assert len(loaded(changed(sites=[other])).onramps[0].sites) == 2


def test_sites_with_context_may_share_a_peer(loaded):
    assert len(loaded(changed(sites=[{"name": "paris", "id": 2}])).onramps[0].sites) == 2


def test_longest_token_fits_into_a_header(loaded):
    token = "t" * MAX_TOKEN_BYTES
    loaded(changed(site={"token": token}))
    assert len(gue.header(4, gue.Context(0xFFFFFFFF, 0xFFFFFFFF, token.encode()))) <= 128


def via(hop):
    return {"prefix": "10.1.0.0/24", "via": hop}


NONE = {"context": "none"}
PROBE = {"address": "10.255.1.2", "source": "10.255.1.1"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(site={"tenant": "amce"}), "unknown tenant 'amce'; did you mean 'acme'?"),
        (changed(site={"network": "labs"}), "unknown network 'labs'; did you mean 'lab'?"),
        (changed(site={"peers": []}), "peers: expected a list of length >= 1"),
        (changed(site={"peers": ["192.0.2.7"]}), "expected a port, 1 to 65535, after the address (found '192.0.2.7')"),
        (changed(site={"peers": ["192.0.2.7:0"]}), "expected a port, 1 to 65535"),
        (changed(site={"peers": ["2001:db8::7:6080"]}), "expected address:port or [address]:port"),
        (changed(site={"peers": ["berlin:6080"]}), "'berlin' does not appear to be an IPv4 or IPv6 address"),
        (changed(site={"peers": ["[2001:db8::7]:6080"]}), "the on-ramp listens on IPv4, and this is IPv6"),
        (changed(site={"peers": ["192.0.2.7:1", "192.0.2.7:2"]}), "the address 192.0.2.7 is listed twice"),
        (changed(listen="everywhere"), "expected a port"),
        (changed(site={"prefixes": ["10.1.0.0/24", "10.1.0.128/25"]}), "10.1.0.128/25 overlaps 10.1.0.0/24"),
        (changed(site={"prefixes": ["10.1.0.1/24"]}), "not a prefix: 10.1.0.1/24 has host bits set"),
        (changed(sites=[{"id": 2}]), "another site has the name 'berlin'"),
        (changed(sites=[{"name": "paris"}]), "another site of tenant 'acme' has the id 1"),
        (changed(site={"id": None}), "key 'id' is required for a site with context"),
        (changed(tenants={"acme": {}}), "tenant 'acme' needs an 'id' for contexts to name it"),
        (changed(tenants={"globex": {"id": 7}}), "tenant 'acme' has the id 7"),
        (changed(site={"version": 1}), "version 1 has no header for a context; add 'context: none'"),
        (changed(site={"token": "t" * (MAX_TOKEN_BYTES + 1)}), f"a token has at most {MAX_TOKEN_BYTES} bytes"),
        (changed(site={**NONE, "token": "x"}), "a token is part of the context"),
        (changed(site=NONE, sites=[{**NONE, "name": "paris", "id": 2}]), "their packets could not be told apart"),
        (changed(site={"mtu": 500}), "mtu: expected an integer >= 576"),
        (changed(site={"probe": {**PROBE, "address": "fd00::1"}}), "address and source are of different families"),
        (changed(site={"probe": {**PROBE, "address": "10.255.1.1"}}), "address and source are the same"),
        (changed(site={"probe": {**PROBE, "source": "me"}}), "not an address: 'me'"),
        (changed(routes=[via("site:berln")]), "unknown site 'berln'; did you mean 'berlin'?"),
        (changed(routes=[via("berlin")]), "unknown next hop 'berlin'; did you mean 'site:berlin'?"),
        (changed(routes=[via("streams")]), "did you mean 'stream'?"),
        (changed(routes=[{"prefix": "10.1.0/24", "via": "stream"}]), "not a prefix"),
        (changed(routes=ROUTES * 2), "the route to 10.1.0.0/24 via site:berlin is listed twice"),
        (changed(routes=[{**ROUTES[0], "weight": 0}]), "weight: expected an integer >= 1"),
        (changed(routes=[{**ROUTES[0], "level": "packet"}]), "level"),
        (changed(site={"tenant": "globex"}), "site 'berlin' belongs to tenant 'globex'"),
        (changed(site={"network": "lab"}), "site 'berlin' is in network 'lab' of the tenant"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(loaded, data, message):
    with pytest.raises(DocumentError) as caught:
        loaded(data)
    assert message in caught.value.message
    assert caught.value.line


def test_one_port_is_for_one_onramp(loaded):
    data = copy.deepcopy(WHOLE)
    data["onramps"] *= 2
    data["onramps"][1] = {**data["onramps"][0], "sites": []}
    with pytest.raises(DocumentError, match="is the address of another on-ramp"):
        loaded(data)


def test_endpoints():
    assert [str(part) for part in endpoint("[2001:db8::1]:6080")] == ["2001:db8::1", "6080"]
    assert [str(part) for part in endpoint("192.0.2.1:65535")] == ["192.0.2.1", "65535"]
    for text in ("[192.0.2.1:1", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:²", ":1", "[]:1"):
        with pytest.raises(ValueError, match=r"expected|does not appear"):
            endpoint(text)
