"""Real servers for the tests, booted on this machine."""

from __future__ import annotations

from .image import Image, bare, base, warm
from .server import Server, Snapshot, clean, close_all, unavailable

__all__ = ["Image", "Server", "Snapshot", "bare", "base", "clean", "close_all", "unavailable", "warm"]
