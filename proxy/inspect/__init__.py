"""What inspectors do with the sessions handed to them: terminate TLS, read what is inside, and send it on."""
