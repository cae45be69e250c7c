"""Real servers for the tests, booted on this machine."""

from __future__ import annotations

from .image import Image, base, warm
from .server import Server, Snapshot, clean, close_all, unavailable

__all__ = ["Image", "Server", "Snapshot", "base", "clean", "close_all", "unavailable", "warm"]
