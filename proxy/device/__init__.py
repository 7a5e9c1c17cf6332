"""Reads and writes packets: TUN devices, SEQPACKET tunnels, and the network namespaces that contain them."""
