"""How programs of a client learn to trust a tenant's authority."""

from __future__ import annotations

import enum


class Store(enum.StrEnum):
    """Who is to trust it."""

    system = "system"  # what most programs look into
    nss = "nss"  # of the user: Chromium and Chrome
    firefox = "firefox"  # every profile of the user's
    env = "env"  # one shell, and what is started in it
