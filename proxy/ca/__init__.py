"""The certificate authorities of tenants: made, kept, imported, rotated; and the leaves that inspectors serve."""
