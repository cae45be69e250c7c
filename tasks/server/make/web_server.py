"""The web server reads an application's files, and speaks to its socket, as a member of the application's group."""

from __future__ import annotations

import grp
import os
import subprocess
import time
from collections.abc import Iterator

from .. import telling
from ..exported import exported
from ..refused import Refused
from ..values.names import WEB_SERVER
from ..values.site import Site

PATIENCE = 15
"""Seconds for new workers to be there after a reload."""


@exported
def look(site: Site, name: str, group: str) -> None:  # noqa: ARG001
    """Tell whether the account is in `group`, and whether the workers that run were started since."""
    if not _is_member(group):
        telling.found(name, "")
    elif all(_number(group) in groups for groups in _workers()):
        telling.found(name, "in the group")
    else:
        telling.found(name, "in the group, and nginx was started before that")


@exported
def join(site: Site, group: str) -> None:  # noqa: ARG001
    """Workers get their groups when they start: a reload starts new ones, and interrupts no request."""
    if not _is_member(group):
        subprocess.run(["usermod", "--append", "--groups", group, WEB_SERVER], check=True)
    if all(_number(group) in groups for groups in _workers()):
        return
    subprocess.run(["systemctl", "reload", "nginx.service"], check=True)
    end = time.monotonic() + PATIENCE
    while not all(_number(group) in groups for groups in _workers()):
        if time.monotonic() > end:
            raise Refused(f"nginx did not start anew as a member of {group}", "nginx -t; systemctl status nginx")
        time.sleep(0.05)


@exported
def look_strangers(site: Site, name: str, users: tuple[str, ...]) -> None:  # noqa: ARG001
    """Tell which of these accounts are in the web server's group, by which they would read all applications."""
    telling.found(name, "\n".join(f"{user} is in it" for user in users if user in _members(WEB_SERVER)))


@exported
def remove_strangers(site: Site, users: tuple[str, ...]) -> None:  # noqa: ARG001
    """Their processes that run leave the group when they are started anew."""
    for user in users:
        if user in _members(WEB_SERVER):
            subprocess.run(["gpasswd", "--delete", user, WEB_SERVER], check=True, stdout=subprocess.DEVNULL)


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []


def _is_member(group: str) -> bool:
    return WEB_SERVER in _members(group)


def _number(group: str) -> int:
    return grp.getgrnam(group).gr_gid


def _workers() -> Iterator[set[int]]:
    """The groups of each worker that takes requests; those of before a reload only finish what they have."""
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ")
            if not words.startswith(b"nginx: worker process") or b"shutting down" in words:
                continue
            with open(f"/proc/{process}/status") as file:
                groups = next(line for line in file if line.startswith("Groups:"))
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            continue
        yield {int(one) for one in groups.split()[1:]}
