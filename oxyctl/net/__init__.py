"""The kernel's side of a lab: namespaces, mounts, and links by rtnetlink. Knows nothing of labs."""
