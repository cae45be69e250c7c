"""What the keys of a stage must say together: each may be right by itself and the stage still impossible."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import get_args

from ..model import naming
from ..model.config import Host, Service, Stage
from ..model.topology import is_number
from ..model.typed import Absolute, Match
from .shape import Problem

ABSOLUTE = next(note.pattern for note in get_args(Absolute) if isinstance(note, Match))
OURS = {".venv", ".release", "release.json", "web.sock", ".git"}
"""What a release contains that is not the project's: docs/architecture.md."""
LAYOUT = {"current", "releases", "staging", "shared", "environments", "backups", "repo.git", ".releases"}
"""What deploy_to contains."""


def agreement(stage: Stage) -> list[Problem]:
    places = (free_names, hosts, roles, keys, machines, folders, address, proxies)
    contents = (services, runnable, shared, encryption, archive, adoption)
    return [problem for rule in (*places, *contents) for problem in rule(stage)]


def apart(stages: Mapping[str, Stage]) -> Iterator[tuple[str, Problem]]:
    """The stage, and what it must not have in common with an earlier one: which backup is whose would be unknown, and
    one archive goes on with the cluster that was set up last.
    """
    owners: dict[tuple[str, ...], str] = {}
    for name, one in stages.items():
        for key, place, other in _to_itself(one):
            if place in owners:
                says = f"is that of stage {owners[place]}: name another one, or {other} in [stages.{name}.backup]"
                yield name, Problem(("backup", key), says)
            owners.setdefault(place, name)


def _to_itself(stage: Stage) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Key of [backup], the place it names, and what names none."""
    asked = stage.backup
    if asked.repository and asked.enabled and stage.manager == "systemd":
        yield "repository", ("repository", stage.application, asked.repository), '""'
    if asked.bucket and stage.is_archived:
        yield "archive", ("archive", asked.archive), 'engine = "dump"'


def rehearsing(stage: Stage) -> Stage:
    """Where another stage is only rehearsed, nothing is done at its hours: the same stage without beat."""
    if not stage.recover.variables:
        return stage
    return replace(stage, services={name: one for name, one in stage.services.items() if one.kind != "beat"})


def anchored(stage: Stage, folder: Path) -> Stage:
    """The same stage with its relative folders made absolute, beside releases.toml; only a sandbox has any."""
    if not local(stage):
        return stage
    place = absolute(stage.deploy_to, folder)
    return replace(stage, deploy_to=place, repository=anchored_repository(stage.repository, folder))


def anchored_repository(repository: str, folder: Path) -> str:
    return absolute(repository, folder) if is_folder(repository) else repository


def absolute(place: str, folder: Path) -> str:
    return os.path.normpath(folder / os.path.expanduser(place))  # noqa: PTH111 - pathlib raises for an unknown ~user


def is_folder(repository: str) -> bool:
    """git's own rule: a scheme, or a colon before the first slash, makes it a remote."""
    return not re.match(r"[^/]+:", repository)


def local(stage: Stage) -> bool:
    return bool(stage.hosts) and all(host.transport == "local" for host in stage.hosts)


def free_names(stage: Stage) -> Iterator[Problem]:
    if stage.manager == "systemd" and naming.is_taken(stage.known_as):
        key = "application" if stage.known_as == stage.application else "name_on_servers"
        yield Problem((key,), f"{stage.known_as} is the name of something else on a server: take another")


def hosts(stage: Stage) -> Iterator[Problem]:
    if not stage.hosts:
        yield Problem(("hosts",), "must list at least one host")
    for row, host in enumerate(stage.hosts):
        before = stage.hosts[:row]
        if host.name in [one.name for one in before]:
            yield Problem(("hosts", row, "name"), f'another host is called "{host.name}"')
        if host.transport == "ssh" and reached(host) in [reached(one) for one in before if one.transport == "ssh"]:
            yield Problem(("hosts", row, "address"), "another host has this address and port")
        if host.transport == "ssh" and reached(host) == ("localhost", 22):
            yield Problem(("hosts", row), 'needs an address, or transport = "local" for this machine')
        if not host.roles:
            yield Problem(("hosts", row, "roles"), "must name at least one role")


def roles(stage: Stage) -> Iterator[Problem]:
    """Roles that stand alone or need one another; who lets others in must know their addresses."""
    apart = [host for host in stage.hosts if {"postgresql", "redis", "replica", "balancer"} & {*host.roles}]
    if stage.hosts and not stage.app_hosts:
        yield Problem(("hosts",), "must list one with the role web, worker, beat or db")
    for role in ("postgresql", "redis"):
        for host in stage.with_role(role)[1:]:
            yield Problem(("hosts", stage.hosts.index(host), "roles"), f"another host has the role {role}")
    if stage.balancers and not stage.with_role("web"):
        yield Problem(("hosts",), "no host has the role web, and one is to balance between them")
    if stage.replicas and not stage.has_postgresql:
        yield Problem(("hosts",), "a replica is of the PostgreSQL of [provision], which is switched off")
    for row, host in enumerate(stage.hosts):
        where = ("hosts", row, "roles")
        if {"web", "balancer"} <= {*host.roles}:
            yield Problem(where, "web and balancer both want port 80")
        if "replica" in host.roles and host == stage.database_host:
            yield Problem(where, "a replica of the database on its own host is none")
        if apart and not is_number(host.inside):
            says = "must be an IP address, or internal must: firewall and database let in addresses, not names"
            yield Problem(("hosts", row, "address"), says)


def reached(host: Host) -> tuple[str, int]:
    return host.address.lower(), host.port


def keys(stage: Stage) -> Iterator[Problem]:
    for row, host in enumerate(stage.hosts):
        if host.host_key and not is_public_key(host):
            yield Problem(("hosts", row, "host_key"), 'must be a type and a key in base64, as "ssh-ed25519 AAAA..."')


def is_public_key(host: Host) -> bool:
    """RFC 4253, 6.6: the blob begins with the length and the name of its own type."""
    match host.host_key.split(" "):
        case [kind, text]:
            try:
                blob = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                return False
            return (
                len(kind) > 0
                and blob.startswith(len(kind).to_bytes(4, "big") + kind.encode())
                and len(blob) > len(kind) + 4
            )
    return False


def machines(stage: Stage) -> Iterator[Problem]:
    here = [host for host in stage.hosts if host.transport == "local"]
    if stage.manager == "supervisor" and stage.hosts and (len(here) != 1 or len(stage.hosts) != 1):
        yield Problem(("manager",), 'supervisor is for exactly one host, with transport = "local"')
    elif len(here) > 1:
        yield Problem(("hosts",), 'only one host may have transport = "local": this machine')


def folders(stage: Stage) -> Iterator[Problem]:
    if not re.fullmatch(ABSOLUTE, stage.deploy_to):
        says = (
            f"becomes {stage.deploy_to}: name a folder" if local(stage) else "must be an absolute path on the servers"
        )
        yield Problem(("deploy_to",), f"{says}, without spaces or ..")
    if not is_folder(stage.repository):
        return
    if not stage.repository.startswith("/"):
        yield Problem(("repository",), "must be a git URL: servers cannot see a folder of this machine")
    elif local(stage) and PurePosixPath(stage.repository).is_relative_to(stage.deploy_to):
        yield Problem(("deploy_to",), 'would put releases among the files of the project; take ".sandbox"')


def address(stage: Stage) -> Iterator[Problem]:
    if stage.branch == "HEAD" and not local(stage):
        yield Problem(("branch",), '"HEAD" is the commit checked out on this machine; name a branch or tag for servers')


def proxies(stage: Stage) -> Iterator[Problem]:
    for row, text in enumerate(stage.nginx.trusted_proxies):
        where = ("nginx", "trusted_proxies", row)
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield Problem(where, 'must be an IP address or network, as "203.0.113.0/24"')
            continue
        if not network.prefixlen:
            yield Problem(where, "is everybody: anybody could claim to come from anywhere, encrypted, for any name")
        elif "/" in text and str(network.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
            yield Problem(where, f"is an address in a network: say {network}, or the address alone")


TAKEN = naming.OURS | {"nginx", "offsite-database"}


def services(stage: Stage) -> Iterator[Problem]:
    for kind in ("web", "beat"):
        for name in [name for name, one in stage.services.items() if one.kind == kind][1:]:
            yield Problem(("services", name), f"is one {kind} service too many: a stage has at most one")
    for name in [name for name in stage.services if name in TAKEN]:
        yield Problem(("services", name), "is the name of a unit or a log of ours: give the service another one")
    for name, one in stage.services.items():
        found = len(stage.with_role(one.kind))
        if not found and stage.hosts:
            yield Problem(("services", name), f'no host has the role "{one.kind}"')
        if one.kind == "beat" and found > 1:
            yield Problem(
                ("services", name), f'{found} hosts have the role "beat"; exactly one may, or work is done twice'
            )


def runnable(stage: Stage) -> Iterator[Problem]:
    for name, one in stage.services.items():
        if not is_words(one.command):
            yield Problem(("services", name, "command"), "has a quote that is not closed")
        elif not says_what_to_run(stage, one):
            where = "application, or [django] wsgi" if one.kind == "web" else "application"
            yield Problem(("services", name), f"does not say what to run: set {where}, or command")


def is_words(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def says_what_to_run(stage: Stage, service: Service) -> bool:
    return bool(service.command or service.application or (service.kind == "web" and stage.django.wsgi))


def shared(stage: Stage) -> Iterator[Problem]:
    static = str(PurePosixPath(stage.directory) / stage.django.static_root)
    for key in ("shared_dirs", "shared_files"):
        for row, place in enumerate(getattr(stage, key)):
            first = place.split("/")[0]
            others = {*stage.shared_dirs, *stage.shared_files} - {place}
            if first in OURS:
                yield Problem((key, row), f"{first} is each release's own")
            elif stage.django.collectstatic and place == static:
                yield Problem((key, row), "is [django] static_root, which each release has to itself")
            elif above := [one for one in others if PurePosixPath(place).is_relative_to(one)]:
                yield Problem((key, row), f"lies in {above[0]}, which is shared already")
            elif place in getattr(stage, key)[:row] or (key == "shared_files" and place in stage.shared_dirs):
                yield Problem((key, row), "is listed twice")


def encryption(stage: Stage) -> Iterator[Problem]:
    tls = stage.tls
    if not stage.is_encrypted or local(stage):
        return
    if not stage.domain:
        yield Problem(("tls", "certificate"), "needs a domain: a certificate is for names")
    for row, name in enumerate(stage.names):
        where = ("tls", "names", row - 1) if row else ("domain",)
        if ":" in name or is_number(name):
            yield Problem(where, "must be a host name without a port: that is what a certificate is for")
        elif name in stage.names[:row]:
            yield Problem(where, "is listed twice")
    if tls.certificate == "files":
        yield from (
            Problem(("tls", one), "must say where it is on the servers")
            for one in ("fullchain", "key")
            if not getattr(tls, one)
        )
        return
    if not stage.provision.nginx:
        yield Problem(("tls", "certificate"), "certbot proves the domain through nginx: [provision] nginx must be true")
    if len(stage.doors) > 1:
        role = "balancer" if stage.balancers else "web"
        says = f'{len(stage.doors)} hosts have the role "{role}", and the authority asks only one of them: take "files"'
        yield Problem(("tls", "certificate"), says)


def archive(stage: Stage) -> Iterator[Problem]:
    where = ("backup", "engine")
    if stage.backup.engine == "dump" or not stage.hosts or local(stage):
        return
    if not stage.has_postgresql:
        yield Problem(where, '"pgbackrest" needs a PostgreSQL that `fab provision` sets up: [provision] postgresql')
    elif stage.database_host != stage.primary:
        yield Problem(where, f'"pgbackrest" needs PostgreSQL on the host that migrates ({stage.primary.name})')
    if not stage.backup.bucket:
        return
    where = ("backup", "archive")
    if is_number(stage.backup.bucket.host):
        yield Problem(where, "must name the storage: pgBackRest looks for no address in a certificate")
    if not stage.backup.repository:
        yield Problem(where, "on S3 needs a repository as well: what is sent there has the key that opens the archive")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if name not in stage.backup.variables:
            yield Problem(where, f"on S3 is opened by {name}: name it in variables")


def adoption(stage: Stage) -> Iterator[Problem]:
    asked, where = stage.provision, ("provision", "adopt")
    if local(stage):
        return
    if not asked.adopt:
        if asked.adopt_services:
            yield Problem(("provision", "adopt_services"), "are the units of a checkout: say which one, adopt")
        return
    checkout, to = PurePosixPath(asked.adopt), PurePosixPath(stage.deploy_to)
    if not re.fullmatch(ABSOLUTE, asked.adopt):
        yield Problem(where, "must be an absolute path without .. or a slash at its end")
    if to != checkout and to.is_relative_to(checkout):
        yield Problem(where, f"holds deploy_to ({to}): take the checkout itself, or a folder outside of it")
    if checkout != to and checkout.is_relative_to(to) and checkout.relative_to(to).parts[0] in LAYOUT:
        yield Problem(where, f"has a name that deploy_to ({to}) needs for itself: name another deploy_to")
    if not asked.adopt_services:
        yield Problem(("provision", "adopt_services"), "must name the units that run from the checkout")
    if f"{stage.known_as}.service" in asked.adopt_services:
        row = asked.adopt_services.index(f"{stage.known_as}.service")
        yield Problem(
            ("provision", "adopt_services", row), "is the name of a unit of ours: give application another name"
        )
    for key in ("postgresql", "redis"):
        if getattr(asked, key):
            yield Problem(where, f"leaves the stores as they are: set {key} = false in [provision]")
    if not asked.nginx:
        yield Problem(where, "brings users to the release by nginx: set nginx = true in [provision]")
