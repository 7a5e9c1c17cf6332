"""The control API of a running proxy, HTTP/1.1 over a Unix socket: its schema, its server and its client."""
