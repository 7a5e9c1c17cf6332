"""What prevents the kernel off-ramp on this machine: facts, and conclusions from them.

survey      read from the kernel and its tools; nothing is changed
judge       from facts to obstacles, each with what mends it. Pure
firewall    whether chains of others would drop our packets. Pure
probes      what a kernel must have for it, found by trying
"""
