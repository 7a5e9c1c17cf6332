"""The kernel's TCP used as a library: a private namespace, and NAT between flows and the sockets in it."""
