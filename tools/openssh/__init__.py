"""The regress tests of OpenSSH (Debian's openssh-tests), each once without and once with the proxy's bridge between its
client and its server.

regress   runs them, and prints the results
through   the bridge: for each connection an origin of OpenSSH's own
sshd      started by the tests instead of sshd: it sends clients to the bridge
"""
