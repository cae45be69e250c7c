"""Redis for one stage alone: Debian's own, or an instance beside it where that is another stage's.

A user of Redis may be kept from keys by their names only, and Celery's have no prefix: two stages in one Redis would
read and take each other's tasks.
"""

from __future__ import annotations

from ...model.call import call
from ...model.config import Host, Stage
from ...model.machine import Part, Thing
from ...model.shell import script
from ...server.make import redis_user
from ...server.values.names import REDIS_PORT
from .. import files
from . import firewall
from .seeds import Seeds
from .things import file, folder, last_line, part, unit

CONF, USERS = "/etc/redis/fab-releases.conf", "/etc/redis/users.acl"
RULES = "~* &* +@all -@admin -@dangerous +info"
AFTER_NETWORK = """\
# It binds to an address that must be there. Written by fab-releases.
[Unit]
After=network-online.target
Wants=network-online.target
"""


def port(facts: dict[str, str], seeds: Seeds) -> int:
    """As the environment file has it, or as the server was asked."""
    return seeds.redis_port or int(facts.get("redis_port") or REDIS_PORT)


def parts(stage: Stage, host: Host, facts: dict[str, str], seeds: Seeds) -> tuple[Part, ...]:
    """It listens where the hosts of the stage find it and nowhere else; its only user has a password."""
    if host != stage.redis_host or not stage.provision.redis:
        return ()
    here, strangers = port(facts, seeds), stage.strangers_to(host)
    own, name = here != REDIS_PORT, stage.known_as
    service = f"redis-server@{name}" if own else "redis-server"
    users = f"/etc/redis/users-{name}.acl" if own else USERS
    address = firewall.address(host) if strangers else ""
    conf = files.render("redis.conf", stage, address=address, port=here if own else 0, users=users)
    late = file(f"/etc/systemd/system/{service}.service.d/fab-releases.conf", AFTER_NETWORK)
    configured: tuple[Thing, ...] = (
        file(CONF, conf, "640", "root", "redis"),
        last_line("/etc/redis/redis.conf", f"include {CONF}"),
    )
    if own:
        configured = (
            folder(f"/var/lib/redis/{name}", "redis", "redis", "750"),
            file(f"/etc/redis/redis-{name}.conf", conf, "640", "root", "redis"),
        )
    running, user = unit(f"{service}.service"), _user(name, users, seeds)
    return (
        part(
            "redis",
            "Set up Redis",
            *((late,) if strangers else ()),
            *((user, *configured, running) if own else (running, user, *configured)),
            *firewall.lets_in(stage, strangers, here),
            use=("restart_anew", f"{service}.service"),
        ),
    )


def _user(name: str, users: str, seeds: Seeds) -> Thing:
    return Thing(
        "Redis user",
        seeds.look_by(call(redis_user.look, "Redis user", name, users)),
        "\n".join(sorted(["user default off", f"user {name} on * {RULES}"])),
        script(call(redis_user.make, name, seeds.redis, RULES, users)),
    )
