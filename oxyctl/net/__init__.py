"""The kernel's side of a lab: namespaces, mounts, and links, tunnels and rules by netlink. Knows nothing of labs."""
