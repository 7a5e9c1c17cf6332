"""oxyctl: labs of Linux namespaces around the proxy, and the command line of both.

    cli/       the commands: what is typed, and what is printed
    lab/       from a YAML file to a running process tree, and back to nothing
    nodes/     what each kind of node is made of, one file per kind
    net/       namespaces, mounts and rtnetlink
    agents/    what runs inside client nodes: packets between a TUN device and a tunnel
    services/  the origin servers of upstream nodes
    traffic/   traffic generators, and their reports
    checks/    what a lab file says must be true, tried
    testing/   labs as fixtures of pytest
    render/    tables of flows, traffic and checks

Imports point one way: `net` <- `nodes` <- `lab` <- `checks` <- `cli`, `testing`; `agents`, `services` and `traffic` are
programs of their own.
"""
