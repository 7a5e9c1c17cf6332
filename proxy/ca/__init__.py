"""The certificate authorities of tenants: created, stored, imported, rotated; and the leaves that inspectors serve."""
