"""The kernel's part of a lab: namespaces, mounts, and links, tunnels and rules by netlink. Knows nothing about labs."""
