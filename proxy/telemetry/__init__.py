"""What the proxy records and counts: the flow log, the audit log and the metrics."""
