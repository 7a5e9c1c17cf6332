"""The default ports of services (IANA's; iperf3 has its own)."""

PORTS = {"http": 80, "https": 443, "ssh": 22, "sshd": 22, "echo": 7, "discard": 9, "dns": 53, "iperf3": 5201}
