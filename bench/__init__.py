"""Benchmarks, one file each: `python -m bench [name ...] [--quick] [--json]`. Each is compared with a reference.

topology          three namespaces (client, proxy, origin) that end with the bench
contestants       the measured programs: the kernel, the proxy, other tools, each steered into and out of the path
series            alternating runs, medians, targets, the table and the JSON
programs          origin servers and load generators that run in the namespaces; load.c, datagrams.c, forwarder.c
idle_connections  connections that are held open, and memory once it is stable
peers             installs the other tools into a separate environment
"""
