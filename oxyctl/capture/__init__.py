"""Captures of a lab's interfaces: as one pcapng file, a stream, or a line for each packet.

targets     what was asked for -> interfaces of nodes
opener      packet sockets, made inside each node's namespace and handed out of it
filters     expressions -> socket filters
ring        one interface: packets from memory that the kernel fills, and how many it had to drop
growth      interfaces that come while a capture runs
session     one epoll loop over all interfaces, and what ends a capture
pcapng      blocks of the file format; no I/O
printing    a packet in one line
writers     packets -> blocks or lines
sinks       where those go: a file, a ring of files, a pipe, a terminal
report      how far it is, and how it ended
capture     all of these together: what `oxyctl capture` runs
recording   a capture as a process of its own, for programs
"""
