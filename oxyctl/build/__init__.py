"""Steps carried out: what the kernel is asked to make for a lab. A new kind of step is built here.

    network         namespaces, sysctls, bridges, links, addresses, routes
    devices         tunnels, TUN devices and policy rules
    files           files that only one node sees
    isolation       the namespaces that make a process tree a lab

Invariant: whatever a lab makes outside its run directory lives in namespaces that end with its supervisor.
"""
