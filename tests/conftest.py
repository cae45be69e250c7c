"""What tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import servers

Boot = Callable[..., servers.Server]


@pytest.fixture(scope="session")
def boot() -> Iterator[Boot]:
    """`boot(name, ssh_port=22, requirements=None)`: a real server, the same one for the same words all session.

    It comes as the test before left it: begin with `.reset()` where that matters. `requirements` is a file whose
    packages the server's uv finds without a network.
    """
    _require_servers()
    servers.clean()
    booted: dict[tuple[str, int, Path | None], servers.Server] = {}

    def boot(name: str, *, ssh_port: int = 22, requirements: Path | None = None) -> servers.Server:
        key = (name, ssh_port, requirements)
        if key not in booted or booted[key].is_closed:
            image = servers.warm(requirements) if requirements else servers.base()
            booted[key] = servers.Server.boot(name, ssh_port=ssh_port, image=image)
        booted[key].start()
        return booted[key]

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is booted is also closed then
    try:
        yield boot
    finally:
        for server in booted.values():
            server.close()
        signal.signal(signal.SIGTERM, before)


def _require_servers() -> None:
    reason = servers.unavailable()
    if reason and os.environ.get("FAB_RELEASES_REQUIRE_SERVERS") == "1":
        pytest.fail(f"real servers are required, and this machine has none: {reason}")
    if reason:
        pytest.skip(f"no real servers on this machine: {reason}")
