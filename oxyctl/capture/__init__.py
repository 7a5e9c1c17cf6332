"""Captures of a lab's interfaces: as one pcapng file, a stream, or a line for each packet.

targets     requested targets -> interfaces of nodes
opener      packet sockets, made inside each node's namespace and handed out of it
filters     expressions -> socket filters
ring        one interface: packets from memory that the kernel fills, and the number of dropped ones
interface_watcher   interfaces that are added while a capture runs
session     one epoll loop over all interfaces, and what ends a capture
pcapng      blocks of the file format; no I/O
printing    a packet in one line
writers     packets -> blocks or lines
sinks       outputs: a file, a ring of files, a pipe, a terminal
report      progress, and the summary
capture     all of these together, for `oxyctl capture`
recording   a capture in a separate process, for programs
"""
