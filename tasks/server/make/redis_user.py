"""The application's user of Redis, among those of others; the file of users lies in a folder that Redis may write."""

from __future__ import annotations

import hashlib
import re

from .. import files
from ..exported import exported
from ..values.secret import Secret
from ..values.site import Site
from .kept import keep
from .looking import tell, text_of

USERS = "/etc/redis/users.acl"
PASSWORD = re.compile(r" [#>]\S+")
NOBODY = "user default off"


@exported
def look(site: Site, name: str, user: str, path: str = USERS) -> None:  # noqa: ARG001
    """Tells the rules of `user` and of who has no name, with "*" for a password."""

    def rules() -> str:
        own = [line for line in _lines(path) if line.split()[1:2] in (["default"], [user])]
        return "\n".join(sorted(PASSWORD.sub(" *", line) for line in own))

    tell(name, rules)


@exported
def make(site: Site, user: str, password: Secret, rules: str, path: str = USERS) -> None:  # noqa: ARG001
    """Only it and `default` are written anew."""
    keep(path)
    others = [line for line in _lines(path) if line.split()[1:2] not in (["default"], [user])]
    digest = hashlib.sha256(password.value.encode()).hexdigest()
    text = "\n".join([NOBODY, f"user {user} on #{digest} {rules}", *others, ""])
    files.replace(path, text.encode("utf-8", "surrogateescape"), "redis", "redis", 0o640)


def users(path: str) -> set[str]:
    """Their names, but `default`."""
    return {name for line in _lines(path) for name in line.split()[1:2]} - {"default"}


def _lines(path: str) -> list[str]:
    try:
        content = text_of(files.read(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [line for line in content.splitlines() if line.startswith("user ")]
