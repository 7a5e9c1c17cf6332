"""The origin servers of all nodes of a lab, in one process: `python -m oxyctl.services CONFIG.json`.

A *service* is one kind of server on one port of one node. Its sockets are made inside the node's network namespace and
keep it; one asyncio loop, which stays outside, serves them all. Programs that a service runs (a shell for ssh, iperf3)
are started inside the node's namespace as well.

    config     what CONFIG.json may say
    host       a node as its services see it: where sockets and programs are made, where keys are kept
    service    what a service is: the contract, and listening for TCP
    registry   the kinds, by name: a new kind is one file and one line there
    fleet      start all, report, stop all
    child      one program that a service runs
    dns        the names of the lab (zone, dns_messages); names: the same on the loopback of every node, a program
"""
