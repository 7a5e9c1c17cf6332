"""Carries out the steps of a plan: creates what a lab needs in the kernel. New kinds of steps are built here.

    network         namespaces, sysctls, bridges, links, addresses, routes
    devices         tunnels, TUN devices and policy rules
    files           files that only one node sees
    isolation       the namespaces that make a process tree a lab

Invariant: whatever a lab makes outside its run directory lives in namespaces that end with its supervisor.
"""
