"""The `ssh` service: commands, shells with a terminal, scp and sftp, without authentication; and the service `sshd`,
OpenSSH's server, which requires a certificate of a tenant's authority. For labs only.

server    host keys, listening, accepting every client
session   one channel: a program inside the node's namespace, or a file transfer
program   the program: terminal or pipes, environment, exit
authority host keys, and the authority that certifies them for proxies of the lab
openssh   sshd: its configuration, and the authorities of users that it trusts
unprivileged  runs sshd where only one user exists
pumps     bytes between a channel and the descriptors of a program, with backpressure
"""
