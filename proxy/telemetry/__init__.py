"""What the proxy remembers and counts, for those who look later: the flow log and the metrics."""
