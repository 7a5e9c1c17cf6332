"""Policies without a proxy: files read and tried out, compared with each other, and with flows that were recorded."""
