"""proxy.yaml: what is accepted, what is refused and how it is told, and the paths in it."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import ConnectedOnRamp, DocumentError, Settings, TunOnRamp, load

SMALLEST = {"tenants": {"acme": {}}, "onramps": [{"kind": "connected", "path": "tunnels.sock"}]}


@pytest.fixture
def write(tmp_path):
    def call(value):
        path = tmp_path / "proxy.yaml"
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
        return path

    return call


@pytest.fixture
def mistake(write):
    def call(**changes):
        path = write({**SMALLEST, **changes})
        with pytest.raises(DocumentError) as caught:
            load(path)
        assert caught.value.file == str(path)
        assert caught.value.line
        return caught.value.message

    return call


def test_the_smallest_file_has_every_default(write):
    settings = load(write(SMALLEST))
    assert settings.tenants["acme"].prefixes == ["0.0.0.0/0", "::/0"]
    assert settings.tenants["acme"].token is None
    assert settings.timeouts.context_s == 5
    assert settings.bridge.mtu == 1500


def test_a_tenant_may_have_an_interface_of_its_own(write, mistake):
    settings = load(write({**SMALLEST, "tenants": {"acme": {"egress": "eth1"}, "globex": {}}}))
    assert [tenant.egress for tenant in settings.tenants.values()] == ["eth1", None]
    assert "tenants.acme.egress" in mistake(tenants={"acme": {"egress": "longer-than-any-name"}})


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    path = write({**SMALLEST, "records": {"path": "/var/flows.db"}})
    monkeypatch.chdir("/")
    settings = load(path)
    assert settings.control == str(tmp_path / "control.sock")
    assert settings.records.path == "/var/flows.db"
    assert [ramp.path for ramp in settings.onramps if isinstance(ramp, ConnectedOnRamp)] == [
        str(tmp_path / "tunnels.sock")
    ]


def test_a_tun_onramp_belongs_to_a_tenant(write):
    ramp = {"kind": "tun", "device": "oxy0", "tenant": "acme", "addresses": ["10.9.0.1/24", "fd09::1/64"]}
    settings = load(write({**SMALLEST, "onramps": [ramp]}))
    assert settings.onramps == [TunOnRamp(device="oxy0", tenant="acme", addresses=["10.9.0.1/24", "fd09::1/64"])]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tenants": {}}, "at least one tenant is required"),
        ({"onramps": []}, "at least one on-ramp is required"),
        ({"tenant": {}}, "unknown key 'tenant'; did you mean 'tenants'?"),
        ({"tenants": {"acme": {"prefixes": ["10.0.0.1/24"]}}}, "not a prefix: 10.0.0.1/24 has host bits set"),
        ({"tenants": {"acme": {"limits": {"flow": 1}}}}, "unknown key 'flow'; did you mean 'flows'?"),
        ({"tenants": {"acme": {"limits": {"flows": 0}}}}, "expected an integer >= 1"),
        ({"tenants": {"../acme": {}}}, "tenants"),
        ({"onramps": [{"kind": "conected", "path": "x"}]}, "unknown value 'conected'; did you mean 'connected'?"),
        ({"onramps": [{"path": "x"}]}, "key 'kind' is required"),
        ({"onramps": [{"kind": "connected", "path": "x", "mode": 0o1777}]}, "expected an integer <= 511"),
        (
            {"onramps": [{"kind": "tun", "device": "oxy0", "tenant": "amce"}]},
            "unknown tenant 'amce'; did you mean 'acme'?",
        ),
        ({"onramps": [{"kind": "tun", "device": "a/b", "tenant": "acme"}]}, "device"),
        ({"onramps": [{"kind": "tun", "device": "t", "tenant": "acme", "sources": ["x"]}]}, "not a prefix: 'x'"),
        (
            {"onramps": [{"kind": "tun", "device": "t", "tenant": "acme", "addresses": ["x"]}]},
            "not an address with its",
        ),
        ({"timeouts": {"connect_s": 0}}, "timeouts.connect_s: expected a number > 0"),
        ({"timeouts": {"connect_s": "soon"}}, "(found 'soon')"),
        ({"bridge": {"mtu": 1000}}, "bridge.mtu: expected an integer >= 1280"),
        ({"hooks": "module"}, "expected 'module:Class' or 'file.py:Class' (found 'module')"),
    ],
)
def test_a_mistake_is_named(mistake, changes, message):
    assert message in mistake(**changes)


def test_an_octal_mode_is_what_people_write(write):
    text = "tenants: {acme: {}}\nonramps: [{kind: connected, path: x, mode: 0660}]"
    assert load(write(text)).onramps[0].mode == 0o660


KEYS = st.sampled_from(
    [
        *Settings.__struct_fields__,
        *("acme", "token", "prefixes", "limits", "flows", "mtu"),
        *("kind", "path", "mode", "device", "tenant", "sources", "user"),
    ]
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["connected", "tun", "acme", "::/0", ""])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_settings_load_or_are_refused_with_a_place(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any-proxy.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, **data}))
    place = (1, 1)
    try:
        load(path)
    except DocumentError as error:
        place = error.line, error.column
    assert None not in place
