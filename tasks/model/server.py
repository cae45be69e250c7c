"""What releases.toml may say of the servers themselves: who sets them up, what belongs on them, who may come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .typed import STRICT, Account, Count, Line, Match, Port

Package = Annotated[str, Match(r"[a-z0-9][a-z0-9.+-]{1,60}", "the name of a Debian package")]
Extension = Annotated[str, Match(r"[a-z][a-z0-9_-]{0,60}", 'the name of an extension, as "postgis"')]
PublicKey = Annotated[
    str,
    Match(r"(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\x00-\x1f]*)?", 'a public key, as "ssh-ed25519 AAAA..."'),
]
KnownHost = Annotated[
    str,
    Match(
        r"[A-Za-z0-9.\[\]:,-]+ (ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+",
        'a line of known_hosts, as "git.example.com ssh-ed25519 AAAA..."',
    ),
]
HostName = Annotated[str, Match(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "a host name")]
Unit = Annotated[
    str, Match(r"[A-Za-z0-9][A-Za-z0-9@:_.-]*\.(service|socket|timer)", 'a systemd unit, as "gunicorn.service"')
]
Network = Annotated[str, Match(r"[0-9a-fA-F.:]+(/\d{1,3})?", 'an IP address or network, as "203.0.113.0/24"')]
OptionalPath = Annotated[str, Match(r"(/[A-Za-z0-9._+@/-]+)?", "an absolute path without spaces")]


@dataclass(frozen=True, kw_only=True)
class Provision:
    """What `fab provision` makes of a bare server. What is switched off is left as it is, not removed."""

    __pydantic_config__ = STRICT

    admin: Account = "root"
    """Account it logs in as: root, or one that may use sudo without a password."""
    authorized_keys: tuple[PublicKey, ...] = ()
    """Keys that may log in as the deploying account, besides those that may as admin."""
    known_hosts: tuple[KnownHost, ...] = ()
    """Lines for the deploying account's known_hosts: the key of your git host, as it publishes it."""
    packages: tuple[Package, ...] = ()
    """Debian packages your application needs as well, for example ["libpq5", "gettext"]."""
    postgresql: bool = True
    """PostgreSQL with a role and a database of the application's own: on the host with the role postgresql, or where
    migrations run."""
    extensions: tuple[Extension, ...] = ()
    """Extensions that only a superuser may create, for example ["postgis"]: made in the application's database, and in
    a template of it that restores begin with. Their Debian packages belong into `packages`."""
    pgbouncer: bool = False
    """pgBouncer before PostgreSQL: many connections share few, for the length of a transaction each."""
    redis: bool = True
    """Redis, for nobody but the application: on the host with the role redis, or where migrations run."""
    environment: bool = True
    """A first environment file with generated secrets, where there is none. One that is there is never touched."""
    nginx: bool = True
    """nginx with a site of the application's own, in place of Debian's default site."""
    firewall: bool = True
    """UFW: shut but for SSH, 80 and 443 where users come in, and what the stage's own hosts need of one another."""
    allow: tuple[Port, ...] = ()
    """TCP ports to open as well."""
    logs: bool = True
    """Limits for the journal, and rotation of shared/logs."""
    upgrades: bool = False
    """Security updates install themselves (unattended-upgrades)."""
    fail2ban: bool = False
    """Addresses that guess SSH passwords are shut out for a while."""
    ssh: bool = False
    """SSH by keys only, without forwarding, with today's algorithms only."""
    adopt: OptionalPath = ""
    """A checkout on the server that serves until now, with its virtual environment and its uploads, for
    `fab provision --adopt`. It may be deploy_to itself."""
    adopt_services: tuple[Unit, ...] = ()
    """The units that run from that checkout: stopped and disabled in the end. ["gunicorn.service"]"""


@dataclass(frozen=True, kw_only=True)
class Nginx:
    """How requests reach the application."""

    __pydantic_config__ = STRICT

    trusted_proxies: tuple[Network, ...] = ()
    """Balancers and CDNs that stand before this stage's own servers, by address or network: ["203.0.113.7"]. Their word
    is taken for who came, how and for which name (X-Forwarded-For, -Proto, -Host and their kin), and they may ask which
    release answers. From everybody else, but the servers themselves, these headers are cleared."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How users reach the application encrypted."""

    __pydantic_config__ = STRICT

    certificate: Literal["none", "certbot", "files"] = "none"
    """certbot: obtained and renewed on the server, whose authority's terms you agree to. files: you put them there.
    none: http only."""
    names: tuple[HostName, ...] = ()
    """Further names of the certificate, which lead to domain: ["www.pos.example.com"]."""
    hsts_days: Count = 1
    """How long browsers insist on https after a visit; 0: they do not. Raise it once https has proved itself."""
    email: Line = ""
    """certbot: where the authority writes to; may be empty."""
    server: Annotated[str, Match(r"(https://[^\s]+)?", "an https URL")] = ""
    """certbot: the authority's directory; empty: Let's Encrypt."""
    fullchain: OptionalPath = ""
    """files: path of the certificate with its chain, on the server."""
    key: OptionalPath = ""
    """files: path of its private key, on the server."""
