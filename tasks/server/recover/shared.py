"""What lay in folders of the deploying account and of the application: uploads, backups, the journal, keys."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from .. import accounts, files, telling
from ..exported import exported
from ..make.looking import text_of
from ..owners import group_of
from ..values.secret import Secret
from ..values.site import Site
from . import fetched, owners, tree
from .owners import Owners

VERSION = re.compile(r"[A-Za-z0-9._-]+==")
LINKS = 8
MERGED = ("authorized_keys", "known_hosts")


@exported
def restore_files(
    site: Site, there: str, called: Mapping[str, str], user: str, otherwise: str, left_out: tuple[str, ...]
) -> None:
    """Fact files: how many are back. `there` is the folder as it was on the lost server, `user` who deploys; `called`
    says how accounts and their groups there are called here, `otherwise` who gets what nobody here owned.
    """
    known, count = Owners(called, otherwise), 0
    if files.entry(f"{fetched.place()}{there}"):
        with files.folder(f"{fetched.place()}{there}") as source, files.folder(site.shared) as target:
            names = frozenset((".fab-restore", *left_out))
            count = tree.put(source, target, lambda entry: known.of(entry.st_uid, entry.st_gid), names)
    files.replace(f"{site.private}/recovered", b"", user, group_of(user), 0o644)  # a first deploy was long ago
    telling.fact("files", str(count))


@exported
def restore_history(site: Site, dumps: str, private: str, user: str) -> None:
    """Backups of the database, and what was live when."""
    entry = pwd.getpwnam(user)
    for path in (f"{site.deploy_to}/backups", f"{site.deploy_to}/backups/database"):
        files.make_folder(path, user, group_of(user), 0o700)
    if files.entry(f"{fetched.place()}{dumps}"):
        into = f"{site.deploy_to}/backups/database"
        with files.folder(f"{fetched.place()}{dumps}") as source, files.folder(into) as target:
            tree.put(source, target, lambda _: (entry.pw_uid, entry.pw_gid))
    if files.entry(f"{fetched.place()}{private}/journal.jsonl"):
        with files.folder(f"{fetched.place()}{private}") as source, files.folder(site.private) as target:
            tree.put_one(source, target, "journal.jsonl", lambda _: (entry.pw_uid, entry.pw_gid))


@exported
def restore_requirements(site: Site, application: str, commit: str, was: str, python: str, user: str) -> None:
    """What the lost release ran with: the next one of that commit is built with the same versions (as_installed)."""
    try:
        text = files.read(f"{fetched.place()}/var/lib/fab-releases/offsite/{application}/requirements").decode()
    except FileNotFoundError:
        telling.warn(
            "the snapshot does not say which versions were installed: what the commit leaves open may be newer now"
        )
        return
    now = _version_of(f"python{python or '3'}")
    if was.rpartition(".")[0] != now:
        telling.warn(f"Python was {was} there, and is {now} here: not every version that was installed may fit")
    lines = [line for line in text.splitlines() if VERSION.match(line)]
    path = f"{site.private}/as-installed.{commit[:7]}"
    files.replace(path, "".join(f"{line}\n" for line in lines).encode(), user, group_of(user), 0o644)


@exported
def restore_keys(site: Site, was: str, user: str, logins: bool) -> None:  # noqa: ARG001
    """What lets the account `user` fetch from git, and with `logins` who may log in; none that is here goes.

    What was `was`'s on the lost server is read by root, and written by the account itself.
    """
    home = owners.home_there(was)
    folder = f"{fetched.place()}{home}/.ssh"
    if not home or files.entry(folder) is None:
        return
    found = {}
    for name in files.names(folder):
        there = files.entry(f"{folder}/{name}")
        if there and there.kind == "regular file" and (logins or name != "authorized_keys"):
            found[name] = files.read(f"{folder}/{name}")
    accounts.run_as(user, lambda: _write_keys(user, found))


@exported
def read_environment(site: Site, path: str) -> Secret | None:  # noqa: ARG001
    """The file of variables as the lost server had it."""
    there = files.entry(f"{fetched.place()}{path}")
    if there is None or there.kind == "directory":  # a stage may have none
        return None
    return Secret(text_of(files.read(f"{fetched.place()}{path}")))


@exported
def restore_own_files(site: Site, paths: tuple[str, ...]) -> None:  # noqa: ARG001
    """Files that a person has put there, such as certificates: root's, as nginx reads them. None that is here goes."""
    for path in paths:
        found = _followed(path)
        if found and files.entry(path) is None:
            there, content = files.state(found)
            files.make_folders(os.path.dirname(path), "root", "root", 0o755)
            files.replace(path, content, "root", "root", there.mode & 0o777)


def _followed(path: str) -> str:
    """Where a file is among what was fetched; links are those of the lost server. "" where it is not."""
    for _ in range(LINKS):
        there = files.entry(f"{fetched.place()}{path}")
        if there is None or there.kind not in ("regular file", "symbolic link"):
            return ""
        if there.kind == "regular file":
            return f"{fetched.place()}{path}"
        path = os.path.normpath(os.path.join(os.path.dirname(path), there.target))
    return ""


def _write_keys(user: str, found: Mapping[str, bytes]) -> None:
    folder = f"{pwd.getpwnam(user).pw_dir}/.ssh"
    files.make_folder(folder, user, group_of(user), 0o700)
    for name, content in found.items():
        path = f"{folder}/{name}"
        if files.entry(path) is None:
            files.replace(path, content, user, group_of(user), 0o600)
        elif name in MERGED:
            files.replace(path, _merged(files.read(path), content), user, group_of(user), 0o600)


def _merged(here: bytes, there: bytes) -> bytes:
    known = here.splitlines()
    more = [line for line in dict.fromkeys(there.splitlines()) if line not in known]
    ended = here if not here or here.endswith(b"\n") else here + b"\n"
    return ended + b"".join(line + b"\n" for line in more)


def _version_of(program: str) -> str:
    """ "3.11" """
    text = "import sys; print('%d.%d' % sys.version_info[:2])"
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([program, "-I", "-c", text], capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return "another one"
