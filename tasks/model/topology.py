"""Which host of a stage does what, and what follows: who is deployed to, who has the data, where users come in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from .typed import STRICT, Account, Address, Internal, Line, Name, Port

Role = Literal["web", "worker", "beat", "db", "postgresql", "redis", "replica", "balancer"]
APPLICATION = ("web", "worker", "beat", "db")
"""A host with one of these has releases."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A server of a stage."""

    __pydantic_config__ = STRICT

    name: Name
    """What you call it: in output, and after -H."""
    address: Address = "localhost"
    """Host name or IP address to connect to."""
    internal: Internal = ""
    """IP address at which the other hosts of the stage reach it, in a private network where there is one; empty:
    address, which must then be an IP address."""
    port: Port = 22
    """SSH port."""
    user: Account = "deploy"
    """Account that releases belong to; it needs no root."""
    roles: tuple[Role, ...] = ("web", "worker", "beat", "db")
    """What runs here. Migrations run once, on the first host with the role db. postgresql, redis: the data; without
    such a host it is on the one that migrates. replica: a copy of the database that follows it. balancer: where users
    come in, before the hosts with the role web."""
    host_key: str = ""
    """The server's public key: "ssh-ed25519 AAAA...". Empty: ~/.ssh/known_hosts must know it. Never taken on trust."""
    transport: Literal["ssh", "local"] = "ssh"
    """"local" runs everything on this machine."""
    identity: Line = ""
    """Private key file; empty: the agent and the usual files of ~/.ssh."""

    @property
    def inside(self) -> str:
        """Where the stage's other hosts find it."""
        return self.internal or self.address

    @property
    def has_releases(self) -> bool:
        return any(role in APPLICATION for role in self.roles)


class Topology:
    """What follows from the roles of `hosts`."""

    hosts: tuple[Host, ...]

    def host(self, name: str) -> Host:
        return next(one for one in self.hosts if one.name == name)

    def with_role(self, role: str) -> tuple[Host, ...]:
        return tuple(one for one in self.hosts if role in one.roles)

    @property
    def app_hosts(self) -> tuple[Host, ...]:
        """Those that are deployed to."""
        return tuple(one for one in self.hosts if one.has_releases)

    @property
    def primary(self) -> Host:
        """Where the revision is resolved and migrations run."""
        return next(iter((*self.with_role("db"), *self.app_hosts)), self.hosts[0])

    @property
    def database_host(self) -> Host:
        """Where PostgreSQL is, if it is ours to set up."""
        return next(iter(self.with_role("postgresql")), self.primary)

    @property
    def redis_host(self) -> Host:
        return next(iter(self.with_role("redis")), self.primary)

    @property
    def replicas(self) -> tuple[Host, ...]:
        return self.with_role("replica")

    @property
    def balancers(self) -> tuple[Host, ...]:
        return self.with_role("balancer")

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """IP addresses by which its hosts come to one another, once each."""
        found = (name for host in self.hosts for name in (host.inside, host.address) if is_number(name))
        return tuple(dict.fromkeys(found))

    @property
    def doors(self) -> tuple[Host, ...]:
        """Where users come in, and TLS ends."""
        return self.balancers or self.with_role("web")

    def place_of(self, host: Host) -> str:
        """Where the application finds what is on `host`, as a URL has it."""
        there = f"[{host.inside}]" if ":" in host.inside else host.inside
        return "127.0.0.1" if self.app_hosts == (host,) else there

    def strangers_to(self, host: Host) -> tuple[Host, ...]:
        """The hosts with releases where that is not `host` alone: they come to it over the network."""
        return () if self.app_hosts == (host,) else self.app_hosts


def is_number(name: str) -> bool:
    """Whether it is an IP address, as opposed to a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
