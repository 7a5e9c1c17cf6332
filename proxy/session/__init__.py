"""A session: two connected sockets and the flow that they belong to; its messages, and the channel to inspectors."""
