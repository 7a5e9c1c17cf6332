"""What a running proxy tells and can be told: HTTP/1.1 over a Unix socket, its server, its client, its words."""
