"""Where packets are read and written: TUN devices, SEQPACKET tunnels, and the namespaces they are in."""
