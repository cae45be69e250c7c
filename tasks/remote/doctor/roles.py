"""Questions about what a host is there for besides releases: the database, its copies, Redis, the balancer."""

from __future__ import annotations

from collections.abc import Container, Iterator

from ...model.config import Host, Stage
from ...model.finding import Finding, bad, look, ok
from .. import balancer
from ..machine import bouncer, postgres
from . import backups
from .question import Answer, Question

LATE = 60
"""Seconds a copy may be behind."""


def questions(stage: Stage, host: Host) -> Iterator[Question]:
    if stage.manager != "systemd":
        return
    if not stage.services_on(host):
        told = backups.units(stage) if stage.sends_apart(host) else ()
        yield Question("services", ("ask_services",), lambda answer: read_failed(answer, told))
    if _lets_us_look(stage, host):
        remedy = "on the server: systemctl status 'postgresql*'; its words are in /var/log/postgresql"
        yield Question(
            "postgresql", ("ask_primary",), lambda answer: read_primary(answer, stage), silence="bad", remedy=remedy
        )
    if host in stage.replicas and stage.has_postgresql:
        yield Question("replica", ("ask_copy",), lambda answer: read_copy(answer, stage))
    if stage.has_bouncer and host == stage.database_host:
        yield _answers("pgbouncer", "pgbouncer.service", bouncer.PORT)
    if "redis" in host.roles and stage.provision.redis:
        yield _answers("redis-server", "redis-server.service", 6379)
    if host in stage.balancers and stage.provision.nginx:
        yield Question("balancer", ("ask_balanced", *balancer.looked_at(stage)), read_balancer, seconds=12)
    if stage.encrypts_on(host) and stage.tls.certificate == "certbot":
        yield Question("renewal", ("ask_renewal",), read_renewal)


def _lets_us_look(stage: Stage, host: Host) -> bool:
    """Where the account that deploys has a role of its own: fab provision makes it where others come to the data."""
    shared = "postgresql" in host.roles or bool(stage.strangers_to(host) or stage.replicas)
    return stage.has_postgresql and host == stage.database_host and shared


def _answers(what: str, unit: str, port: int) -> Question:
    remedy = f"on the server: systemctl status {unit}; journalctl -u {unit}"

    def read(answer: Answer) -> Iterator[Finding]:
        state = answer.one("state")
        if state != "active":
            yield bad(what, f"is {state or 'not installed'}", f"{remedy}; fab provision")
        elif not answer.every("open"):
            yield bad(what, f"runs, and port {port} does not answer", remedy)
        else:
            yield ok(what, f"answers at port {port}")

    return Question(what, ("ask_answers", unit, port), read, silence="bad", remedy=remedy)


def read_failed(answer: Answer, told: Container[str] = ()) -> Iterator[Finding]:
    """Of whatever runs there; of those in `told` another question says more."""
    failed = [unit for unit in answer.every("failed") if unit not in told]
    for unit in failed:
        yield look("services", f"{unit} has failed", f"systemctl status {unit}; systemctl reset-failed {unit}")
    if not failed:
        yield ok("services", "no unit of the server has failed")


def read_primary(answer: Answer, stage: Stage) -> Iterator[Finding]:
    """It takes writes, and every copy of releases.toml follows it; no other one keeps its disk full."""
    if answer.every("down"):
        yield bad("postgresql", "does not answer", "systemctl status 'postgresql*', and /var/log/postgresql there")
        return
    if reason := answer.one("refused"):
        yield look("postgresql", f"runs, and does not let you look ({reason})", "fab provision")
        return
    if answer.one("recovery") == "true":
        hint = "is another host the database now? docs/how-to/run-several-servers.md: the database is lost"
        yield bad("postgresql", "is a copy itself: it takes no writes", hint)
        return
    found = list(_copies(answer, stage))
    yield from found or [ok("postgresql", f"PostgreSQL {answer.one('version')} takes writes{_followers(stage)}")]


def _followers(stage: Stage) -> str:
    names = [host.name for host in stage.replicas]
    return f", {' and '.join(names)} follow{'s' * (len(names) == 1)}" if names else ""


def _copies(answer: Answer, stage: Stage) -> Iterator[Finding]:
    slots = {words[0]: words[1:] for words in map(str.split, answer.every("slot"))}
    for host in stage.replicas:
        active, kept = slots.pop(postgres.slot(stage, host), ("", "none"))
        if kept in ("none", "lost"):
            yield look("postgresql", f"{host.name} can follow it no more", f"{_anew(host.name)}")
        elif active != "true":
            yield look("postgresql", f"{host.name} does not follow it", f"fab -H {host.name} check")
    for slot in slots:
        if slot.startswith(f"{postgres.replicator(stage)}_"):
            hint = f"as postgres: psql -c \"select pg_drop_replication_slot('{slot}')\""
            yield look("postgresql", f"it keeps what a copy that is gone has not heard: {slot}", hint)


def read_copy(answer: Answer, stage: Stage) -> Iterator[Finding]:
    source = stage.database_host.name
    behind = answer.one("behind")
    if answer.every("down"):
        yield look("replica", "does not answer", "systemctl status 'postgresql*', and /var/log/postgresql there")
    elif reason := answer.one("refused"):
        yield look("replica", f"runs, and does not let you look ({reason})", "fab provision")
    elif answer.one("recovery") != "true":
        yield look("replica", f"is a database of its own now, no copy of {source}", _anew("this host"))
    elif answer.one("receiving") != "true":
        hint = f"is {source} up, and does it let this host in? fab provision; /var/log/postgresql there"
        yield look("replica", f"hears nothing of {source}, {behind} s behind", hint)
    elif int(behind) > LATE:
        yield look(
            "replica", f"follows {source}, {behind} s behind", "its disk or the line is slow, or a question holds it up"
        )
    else:
        yield ok("replica", f"follows {source}, {behind} s behind")


def _anew(where: str) -> str:
    return f"make it again, on {where}: pg_dropcluster --stop VERSION main; then fab provision"


def read_balancer(answer: Answer) -> Iterator[Finding]:
    """Its own state, and each host as its nginx would find it."""
    for said in answer.every("ill"):
        name = said.partition(" ")[0]
        if said.startswith(("nginx ", "it ")):
            yield bad("balancer", said, "on the server: systemctl status nginx; nginx -t; fab provision")
        elif said.endswith(" drained"):
            yield look("balancer", said, f"fab undrain {name}, when users may come to it again")
        elif said.endswith(" not answer"):
            yield look(
                "balancer", said, f"is it up, and does it let the balancer in? fab -H {name} check; fab provision"
            )
        else:
            yield look("balancer", said, f"fab -H {name} check; before the first deploy nothing else can be expected")
    if well := [said.partition(" ")[0] for said in answer.every("well")]:
        yield ok("balancer", f"{', '.join(well)} answer{'s' * (len(well) == 1)} it")


def read_renewal(answer: Answer) -> Iterator[Finding]:
    if answer.one("active") != "active" or answer.one("enabled") != "enabled":
        hint = "as root: systemctl enable --now certbot.timer; fab provision does"
        yield look("renewal", "nothing renews the certificate: certbot.timer is off", hint)
    elif answer.one("last") not in ("success", ""):
        hint = "as root: journalctl -u certbot; certbot renew --dry-run"
        yield look("renewal", f"failed the last time ({answer.one('last')})", hint)
    else:
        yield ok("renewal", "certbot.timer is on")
