"""What a server of a stage should be, part by part, in the order in which it is made."""

from __future__ import annotations

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, script
from ...server import units
from . import archive, backups, base, firewall, redis, register, ssh, stores, web
from .stores import Seeds

SUPPORTED = {"debian 12": "bookworm", "debian 13": "trixie"}
"""`ID VERSION_ID` of /etc/os-release -> suite: what has been seen working from a bare server to a live release."""

UNITS = "/etc/systemd/system/"

ORDER = (
    *("stage", "names", "packages", "accounts", "folders", "journal", "logrotate", "upgrades", "fail2ban"),
    *("postgresql", "pgbouncer", "replica", "redis", "environment"),
)
"""Parts that hosts need of one another come first, in this order; the others as each host has them."""


def identify() -> Script:
    """Answers facts: os, init, ssh_port, as_root, python ("" where there is none yet)."""
    return script(("identify",))


def python() -> Script:
    """What looks at a server and makes it is Python itself; Debian's smallest has none."""
    return script(("make_packages", "python3"))


def parts(stage: Stage, host: Host, facts: dict[str, str], seeds: Seeds) -> tuple[Part, ...]:
    """`facts` are those of `identify`; `seeds` the secrets of what does not exist yet."""
    found = (
        *base.parts(stage, host),
        *stores.parts(stage, host, facts, seeds),
        *archive.parts(stage, host, facts, seeds.archive, seeds.offsite),
        *web.parts(stage, host),
        *backups.parts(stage, host, seeds.offsite, stores.webhook(stage, seeds)),
        *ssh.parts(stage),
    )
    rules = firewall.allowed(stage, host, facts, found)
    found = (*register.parts(stage, host, redis.port(facts, seeds), rules), _names(found), *found)
    made = tuple(part for part in (*found, *firewall.parts(stage, host, facts, found)) if part.things)
    wants: dict[str, str] = {}
    for thing in (thing for part in made for thing in part.things):  # what is found is heard of by its name
        if wants.setdefault(thing.name, thing.want) != thing.want:
            raise ValueError(f"two things are called {thing.name}")
    return made


def _names(parts: tuple[Part, ...]) -> Part:
    """No unit of another application is overwritten: `shop` with admin-web and `shop-admin` with web have one name."""
    named = [thing.name.removeprefix("file ") for part in parts for thing in part.things]
    paths = tuple(path for path in named if path.startswith(UNITS))
    if not paths:
        return Part("names", "", ())
    name = "names of units"
    thing = Thing(name, call(units.look_others, name, paths), "", script(call(units.refuse_others, paths)))
    return Part("names", "See that no name is another application's", (thing,))
