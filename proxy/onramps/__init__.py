"""Where traffic enters the proxy."""
