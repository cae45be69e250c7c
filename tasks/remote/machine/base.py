"""What everything else stands on: packages, accounts, folders, logs, updates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from ...model import naming
from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from ...server.make import shared_folder, ssh_files, web_server
from ...server.values.names import WEB_SERVER
from .. import files
from .things import account, file, folder, keys, known_hosts, owner, packages, part

ALWAYS = ("ca-certificates", "curl", "iproute2", "procps", "python3", "sudo")
RELEASES = ("git", "python3-venv")


def parts(stage: Stage, host: Host) -> tuple[Part, ...]:
    return (
        part("packages", "Install packages", packages(*wanted(stage, host), name="packages")),
        part("accounts", "Make accounts", *_accounts(stage, host)),
        part("folders", "Make folders", *_folders(stage, host)),
        *_logs(stage, host),
        *_guards(stage),
    )


def wanted(stage: Stage, host: Host) -> Iterator[str]:
    """Names of Debian packages."""
    asked = stage.provision
    yield from ALWAYS
    if host.has_releases:
        yield from (*RELEASES, *asked.packages)
        if stage.python.version:
            yield from (f"python{stage.python.version}", f"python{stage.python.version}-venv")
    nginx = asked.nginx and ("web" in host.roles or host in stage.balancers)
    database = stage.has_postgresql and (host == stage.database_host or host in stage.replicas)
    yield from (
        name
        for name, here in (
            ("nginx", nginx),
            ("certbot", nginx and host in stage.doors and stage.tls.certificate == "certbot"),
            ("postgresql", database),
            # What dumps the database before a migration is not where it is.
            ("postgresql-client", stage.has_postgresql and host.has_releases and not database),
            ("pgbouncer", stage.has_bouncer and host == stage.database_host),
            ("redis-server", asked.redis and host == stage.redis_host),
            ("ufw", asked.firewall),
            ("logrotate", asked.logs),
            ("unattended-upgrades", asked.upgrades),
            ("fail2ban", asked.fail2ban),
            ("python3-systemd", asked.fail2ban),
        )
        if here
    )


def _accounts(stage: Stage, host: Host) -> tuple[Thing, ...]:
    """Journals are read through their group, and the application's files through its own: by nginx as well."""
    if not host.has_releases:
        return (
            account(host.user, "systemd-journal", login=True),
            keys(host.user, stage.provision.admin, stage.provision.authorized_keys),
        )
    return (
        account(stage.app_user, naming.readers(stage.app_user), login=False),
        account(host.user, stage.app_user, naming.readers(stage.app_user), "systemd-journal", login=True),
        *_web_server(stage, host),
        keys(host.user, stage.provision.admin, stage.provision.authorized_keys),
        *_git(stage, host),
    )


def _web_server(stage: Stage, host: Host) -> Iterator[Thing]:
    if stage.provision.nginx and "web" in host.roles:
        name, group = f"{WEB_SERVER} in group {stage.app_user}", stage.app_user
        look, made = call(web_server.look, name, group), call(web_server.join, group)
        yield Thing(name, look, "in the group", script(made))


def _shared(stage: Stage, host: Host, path: PurePosixPath) -> Thing:
    """The folder itself last: who is interrupted finds it as it was."""
    app = stage.app_user
    thing = folder(path, app, app, "2770")
    regrouped = script(call(shared_folder.regroup, str(path), app, (app, host.user)))
    return replace(thing, make=regrouped + thing.make)


def _strangers(stage: Stage) -> Thing:
    """Whoever is in the web server's group may do what it may, with all applications of a server."""
    name, users = f"nobody of ours in group {WEB_SERVER}", (stage.app_user,)
    look, made = call(web_server.look_strangers, name, users), call(web_server.remove_strangers, users)
    return Thing(name, look, "", script(made))


def _git(stage: Stage, host: Host) -> Iterator[Thing]:
    """The server fetches by itself: with a key of its own where git is spoken over SSH."""
    lines = stage.provision.known_hosts
    if lines:
        yield known_hosts(host.user, lines)
    if re.match(r"ssh://|[^/:]+@[^/:]+:", stage.repository):
        name = f"git key of {host.user}"
        made = script(("make_git_key", host.user, f"{stage.known_as}@{host.name}"))
        yield Thing(name, call(ssh_files.look_git_key, name, host.user), "there", made)


def _folders(stage: Stage, host: Host) -> tuple[Thing, ...]:
    """A host without releases has the place of the lock."""
    layout, deploy, app = stage.layout, host.user, stage.app_user
    if not host.has_releases:
        return (
            folder(layout.deploy_to, deploy, deploy, "755"),
            folder(layout.private, deploy, deploy, "755"),
            owner(layout.private / "lock", deploy, deploy, "600"),
        )
    own = (
        folder(layout.deploy_to, deploy, app, "750"),
        folder(layout.shared, deploy, app, "750"),
        folder(layout.private, deploy, deploy, "755"),
        owner(layout.private / "lock", deploy, deploy, "600"),
        folder(layout.deploy_to / "backups", deploy, deploy, "700"),
    )
    above = dict.fromkeys(
        layout.shared / parent
        for one in stage.shared_dirs
        for parent in reversed(layout.shared.joinpath(one).relative_to(layout.shared).parents[:-1])
    )
    return (
        *own,
        *(folder(path, deploy, app, "750") for path in above),
        *(_shared(stage, host, layout.shared / one) for one in stage.shared_dirs),
        _strangers(stage),
    )


def _logs(stage: Stage, host: Host) -> tuple[Part, ...]:
    if not stage.provision.logs:
        return ()
    path = f"/etc/logrotate.d/{stage.known_as}"
    limits = file("/etc/systemd/journald.conf.d/50-fab-releases.conf", files.render("journald.conf", stage))
    journal = part("journal", "Limit the journal", limits, use=("restart", "systemd-journald.service"))
    rotated = file(path, files.render("logrotate", stage))
    rotation = part("logrotate", "Rotate logs", rotated, check=("logrotate", "--debug", path))
    return (journal, rotation) if host.has_releases else (journal,)


def _guards(stage: Stage) -> Iterator[Part]:
    if stage.provision.upgrades:
        path = "/etc/apt/apt.conf.d/52fab-releases"
        text = files.render("upgrades", stage)
        yield part("upgrades", "Install security updates", file(path, text), check=("apt-config", "dump"))
    if stage.provision.fail2ban:
        path = "/etc/fail2ban/jail.d/fab-releases.conf"
        text = files.render("fail2ban", stage)
        yield part(
            "fail2ban",
            "Shut out who guesses",
            file(path, text),
            check=("fail2ban-server", "-t"),
            use=("restart", "fail2ban.service"),
        )
