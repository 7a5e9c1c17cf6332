"""The `ssh` service: commands, shells with a terminal, scp and sftp, without asking who comes; and the service `sshd`,
OpenSSH's server, which asks for a certificate of a tenant's. For labs only.

server    host keys, listening, what is accepted
session   one channel: a program inside the node's namespace, or a file transfer
program   the program: its terminal or pipes, its environment, its end
authority host keys, and the authority that certifies them for proxies of the lab
openssh   sshd: its configuration, and the authorities of users that it trusts
unprivileged  how it runs where there is one user only
pumps     bytes between a channel and the descriptors of a program, each waiting for the other
"""
