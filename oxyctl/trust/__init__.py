"""Makes programs of a client trust a tenant's authority."""

from __future__ import annotations

import enum


class Store(enum.StrEnum):
    """A trust store."""

    system = "system"  # used by most programs
    nss = "nss"  # the user's: Chromium and Chrome
    firefox = "firefox"  # all profiles of the user
    env = "env"  # one shell, and programs started in it
