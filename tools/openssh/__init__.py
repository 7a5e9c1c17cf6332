"""The regression tests of OpenSSH (Debian's openssh-tests), each run without and with the proxy's bridge between client
and server.

regress   runs them, and prints the results
through   the bridge: for each connection an origin of OpenSSH's own
sshd      started by the tests instead of sshd: it sends clients to the bridge
"""
