"""Which account an application that is here already runs as."""

from __future__ import annotations

import grp
import pwd

from .. import files
from ..exported import exported
from ..values.site import Site


@exported
def of_releases(site: Site, deploy: str) -> str:
    """The account whose group the folder of releases has; "" where it is not there, or only `deploy`'s or root's."""
    there = files.entry(site.deploy_to)
    if there is None or there.group in ("root", deploy):
        return ""
    try:
        group, account = grp.getgrnam(there.group), pwd.getpwnam(there.group)
    except KeyError:
        return ""
    return there.group if account.pw_gid == group.gr_gid and account.pw_uid != 0 else ""
