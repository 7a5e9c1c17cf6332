"""Where traffic leaves the proxy."""
