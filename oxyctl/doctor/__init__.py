"""Determines by trial what labs can do on this machine; each trial runs in a child that leaves nothing behind.

finding     the result of a trial, what needs the feature, and how to fix it
sandbox     a child in namespaces of its own, like a lab
requests    netlink requests that only trials need
features    the kernel: namespaces, devices, tunnels, queueing, sockets
offramp     the kernel off-ramp: the kernel's support for it, and what prevents it on this host
limits      descriptors, pipes, buffers; Python
programs    programs that labs use if they are installed
diagnose    turns the error of a failed `lab up` into a suggested fix
"""
