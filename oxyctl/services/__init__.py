"""The origin servers of all nodes of a lab, in one process: `python -m oxyctl.services CONFIG.json`.

A *service* is one kind of server on one port of one node. Its sockets are made inside the node's network namespace and
keep it; one asyncio loop, which stays outside, serves them all. Programs that a service runs (a shell for ssh, iperf3)
are started inside the node's namespace as well.

    config     the schema of CONFIG.json
    host       a node as its services see it: makes sockets, starts programs, keeps keys
    service    the interface of services, and listening for TCP
    registry   the kinds, by name: a new kind is one file and one line there
    fleet      start all, report, stop all
    child      one program that a service runs
    dns        the names of the lab (zone, dns_messages); names: a program that serves them on every node's loopback
"""
