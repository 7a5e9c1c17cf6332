"""The `ssh` service: commands, shells with a terminal, scp and sftp, without asking who comes. For labs only.

server    host keys, listening, what is accepted
session   one channel: a program inside the node's namespace, or a file transfer
program   the program: its terminal or pipes, its environment, its end
pumps     bytes between a channel and the descriptors of a program, each waiting for the other
"""
