"""What inspectors report of SSH becomes the arguments of hooks."""

from __future__ import annotations

from proxy.hooks.arguments import INSPECTION_HOOKS, argument
from proxy.inspect.hook_arguments import encode_argument
from proxy.inspect.ssh.hook_arguments import ChannelRequest, ExecRequest, Login

FLOW = object()


def shown(hook, question):
    assert hook in INSPECTION_HOOKS
    return argument(hook, encode_argument(question), FLOW)


def test_a_login():
    login = shown("ssh_auth", Login("root", "publickey"))
    assert (login.flow, login.username, login.method) == (FLOW, "root", "publickey")


def test_a_channel_and_its_target():
    channel = shown("ssh_channel", ChannelRequest("root", "direct-tcpip", ("10.0.0.1", 22)))
    assert (channel.flow, channel.kind, channel.target) == (FLOW, "direct-tcpip", ("10.0.0.1", 22))


def test_a_command_in_its_channel():
    command = shown("ssh_exec", ExecRequest(ChannelRequest("root", "session"), "exec", "id"))
    assert (command.kind, command.command, command.channel.username) == ("exec", "id", "root")
    assert command.channel.flow is FLOW
