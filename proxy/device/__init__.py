"""The edges that move packets: TUN devices, SEQPACKET tunnels, and the namespaces they live in."""
