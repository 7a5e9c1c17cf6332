"""On-ramps, by which traffic enters the proxy."""
