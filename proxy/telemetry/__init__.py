"""The proxy's records and counters: the flow log, the audit log and the metrics."""
