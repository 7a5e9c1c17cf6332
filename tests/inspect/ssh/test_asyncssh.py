"""What `proxy.inspect.ssh` uses of asyncssh that is not documented: another version may have it no more."""

from __future__ import annotations

import asyncio
import inspect

import asyncssh
import pytest
from asyncssh.connection import SSHConnection
from asyncssh.kex_dh import _KexDH, _KexECDH, _KexHybridECDH

from proxy.inspect.ssh import connections

USED = {
    SSHConnection: [
        "_cleanup", "_finish_recv_packet", "_force_close", "_packet_handlers", "_process_global_request",
        "_process_global_response", "_process_kexinit", "_process_newkeys", "_report_global_response",
        "_send", "_send_disconnect", "_send_kexinit",
        "log_received_packet", "log_sent_packet", "send_packet",
        "create_task", "send_newkeys",
    ],
    asyncssh.SSHServerConnection: [
        "_cancel_login_timer", "_recv_version", "_validate_openssh_certificate", "create_agent_channel",
        "create_agent_connection", "send_auth_banner", "send_userauth_success",
    ],
    asyncssh.SSHClientConnection: [
        "_process_auth_agent_at_openssh_dot_com_open", "_process_x11_open", "attach_x11_listener",
        "detach_x11_listener", "send_userauth_request", "try_next_auth",
    ],
    asyncssh.SSHServerChannel: [
        "_accept_data", "_cleanup", "_close_send", "_deliver_data", "_flush_recv_buf", "_packet_handlers",
        "_pause_resume_writing", "_process_auth_agent_req_at_openssh_dot_com_request", "_process_close",
        "_process_exec_request",
        "_process_request", "_process_x11_req_request", "_report_response", "_start_session", "close",
        "resume_reading",
    ],
}  # fmt: skip
ATTRIBUTES = {
    SSHConnection: ["_auth", "_auth_complete", "_auth_methods", "_channels",
                    "_deferred_packets", "_global_request_queue", "_inpbuf", "_kex", "_logger", "_loop", "_transport"],
    asyncssh.SSHClientConnection: ["_agent_forward_path"],
    asyncssh.SSHServerChannel: ["_session_started"],
    asyncssh.SSHServerChannel.__mro__[1]: ["_conn", "_recv_buf", "_recv_paused", "_recv_state", "_recv_window",
                                           "_request_queue", "_send_buf", "_send_buf_len", "_send_state", "_session"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in USED.items() for name in names])
def test_it_is_there(kind, name):
    assert hasattr(kind, name), f"asyncssh {asyncssh.__version__} has no {kind.__name__}.{name}"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in ATTRIBUTES.items() for name in names])
def test_an_object_gets_it(kind, name):
    assert f"self.{name}" in inspect.getsource(kind.__init__), f"asyncssh {asyncssh.__version__}: {name}"


@pytest.mark.parametrize("kind", [_KexDH, _KexECDH, _KexHybridECDH])
def test_the_reply_of_a_key_exchange_is_made_of_these_steps(kind):
    steps = inspect.getsource(kind._perform_reply)
    for step in "_compute_server_shared()", "_compute_hash(key_data, k)", "_send_reply(key_data,", "send_newkeys(k, h)":
        assert step in steps


def test_the_only_ignored_messages_are_the_empty_ones_before_packets():
    source = inspect.getsource(SSHConnection)
    assert source.count("send_packet(MSG_IGNORE") == 1
    assert "self.send_packet(MSG_IGNORE, String(b''))" in source


def test_a_transport_reads_as_much_at_a_time_as_it_is_told():
    assert asyncio.selector_events._SelectorTransport.max_size > connections.READ_BYTES
