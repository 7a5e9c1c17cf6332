"""Carries out the steps of a plan: creates a lab's parts in the kernel. A new kind of step is implemented here.

    network     namespaces, sysctls, bridges, links, addresses, routes
    devices     tunnels, TUN devices and policy rules
    files       files that only one node sees
    isolation   the namespaces that isolate a lab's process tree
    trust       the lab's authority, and bundles of trusted certificates

Invariant: everything that a lab creates outside its run directory is in namespaces that end with its supervisor.
"""
