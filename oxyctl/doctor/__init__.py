"""What this machine allows labs to do, found by trying: each trial runs in a child that leaves nothing behind.

finding     what a trial found, what that is needed for, and how to fix it
sandbox     a child in namespaces of its own, as a lab is
requests    netlink requests that only trials need
features    the kernel: namespaces, devices, tunnels, queueing, sockets
offramp     the kernel off-ramp: what the kernel has for it, what on this host is in its way
limits      descriptors, pipes, buffers; Python
programs    what labs can use when it is installed
diagnose    turns the error of a failed `lab up` into a suggested fix
"""
