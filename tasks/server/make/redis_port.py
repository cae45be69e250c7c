"""Where the Redis of a stage listens: the first stage of a server has Debian's own, each other one an instance."""

from __future__ import annotations

import glob
import re
import socket

from .. import files
from ..exported import exported
from ..values.names import REDIS_PORT
from ..values.site import Site
from .looking import text_of
from .redis_user import USERS, users

PORT = re.compile(r"^port (\d+)$", re.MULTILINE)


@exported
def of_stage(site: Site, known_as: str) -> int:  # noqa: ARG001
    """The one it has; a free one where Debian's is another stage's."""
    taken = _instances()
    if known_as in taken:
        return taken[known_as]
    there = users(USERS)
    if not there or known_as in there:
        return REDIS_PORT
    return next(port for port in range(REDIS_PORT + 1, 65536) if port not in taken.values() and _is_free(port))


def _instances() -> dict[str, int]:
    """Name -> port, of those with a configuration of their own."""
    found = {}
    for path in glob.glob("/etc/redis/redis-*.conf"):
        name = path.rpartition("/redis-")[2].removesuffix(".conf")
        if port := PORT.search(text_of(files.read(path))):
            found[name] = int(port[1])
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
