"""Hooks and policies of an application tested without root, sockets or a kernel: packets in; verdicts, records out.

    with Rehearsal(MyHooks()) as rehearsal:
        laptop = rehearsal.tunnel(user="bob@acme.example")
        flow = laptop.tcp("203.0.113.5", 443)
        assert flow.verdict == "denied"
        assert flow.answers == ["ICMP 3/13"]

The packet plane, the admission of flows, the hooks and the records are the proxy's own. Around them everything is in
memory: a tunnel for each client, one for each site, and one site, `internet`, for all other traffic. A flow that is
lifted to a stream is connected at once, and its bytes are discarded.
"""

from proxy.testing.exchange import Client, Exchange
from proxy.testing.rehearsal import Refused, Rehearsal

__all__ = ["Client", "Exchange", "Refused", "Rehearsal"]
