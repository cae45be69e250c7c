"""A file whose content is handed to another host: read by the account whose it is, never by root instead."""

from __future__ import annotations

import pwd

from .. import accounts, files
from ..exported import exported
from ..refused import Refused
from ..values.secret import Secret
from ..values.site import Site
from .looking import text_of


@exported
def read(site: Site, path: str, account: str) -> Secret | None:  # noqa: ARG001
    """None where there is no such account or no such file yet; "" is none. Refused where the account may not read."""
    if not path:
        return None
    try:
        pwd.getpwnam(account)
    except KeyError:
        return None

    def content() -> str | None:
        try:
            return text_of(files.read(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise Refused(f"{account} may not read {path}", f"chown {account} {path}; then run this again") from None

    found = accounts.run_as(account, content)
    return None if found is None else Secret(found)
