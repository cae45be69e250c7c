"""The lock of a stage on a host, where root and the deploying account must keep each other out.

The account's lock is a file in its own folder. Root has one where only root writes, holds it first, and takes the
account's besides through a descriptor that was found without following a name: it writes nothing there.
"""

from __future__ import annotations

import os
import sys

from .. import files
from ..exported import exported
from ..refused import Refused
from ..values.site import Site


@exported
def lend(site: Site) -> None:
    """Print "PID FD", where the account's lock is open, and keep it open until standard input ends; "none" where its
    folder is not there yet, "ours" where nobody but root and we could have made it, "refused" and why for all else.

    A shell that is root opens /proc/PID/fd/FD: that is the same file, whatever has become of its name.
    """
    try:
        _lend(site)
    except Refused as no:
        print(f"refused {no.message}; {no.hint}", flush=True)
    except OSError as error:
        print(f"refused {error.filename or site.private}: {error.strerror}", flush=True)


def _lend(site: Site) -> None:
    there = files.entry(site.private)
    if files.is_ours_alone(site.private if there else files.existing(site.private)):
        print("ours", flush=True)
        return
    if there is None:
        print("none", flush=True)
        return
    path = f"{site.private}/lock"
    if files.entry(path) is None:
        files.replace(path, b"", there.owner, there.group, 0o600)
    with files.opened(path) as descriptor:
        print(os.getpid(), descriptor, flush=True)
        sys.stdin.read()
