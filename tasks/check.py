"""`fab check`: what is wrong with the servers, and what to do about it."""

from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import invoke

from ._offsite import challenge, key_file, tried_from_here
from ._operator import chosen, load_stage, now, strong
from ._scene import open_host
from ._task import task
from .engine.execute import Interrupted, together
from .engine.session import Mark, Session
from .model.config import Host, Stage
from .model.errors import ReleasesError
from .model.finding import Finding, bad, ok
from .remote import doctor
from .report.safe import out, out_json

PATIENCE = 3
"""Seconds for a port to answer from here."""


@task(help={"ref": "branch, tag or commit that should be reachable (default: the stage's branch)"})
def check(context: invoke.Context, stage: str = "", ref: str = "", json: bool = False) -> int:
    """What is wrong with the servers, a line per thing and what to do; exit 4 where a deploy could not start."""
    from .report import findings

    here = load_stage(stage)
    hosts = {host.name: host for host in chosen(here, context, here.hosts)}
    identity = next(iter(context.config.get("identity", ())), "")
    opened: list[Session] = []

    def examine(name: str) -> tuple[Finding, ...]:
        return examined(here, hosts[name], ref or here.branch, identity, opened)

    def stop() -> None:
        for session in opened:
            session.stop()

    try:
        found = together(examine, tuple(hosts), stop)
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        for session in opened:
            session.close()
    if json:
        out_json(findings.to_json(found, here.name))
    else:
        out(findings.to_text(found, aligned=sys.stdout.isatty(), strong=strong()).rstrip("\n"), styled=True)
    return 4 if findings.bad(found) else 0


def examined(stage: Stage, host: Host, ref: str, identity: str, opened: list[Session]) -> tuple[Finding, ...]:
    """All of one host. It never raises: a host that is not reached is a finding."""
    started = time.monotonic()
    try:
        session = open_host(stage, host, identity, more="doctor")
    except ReleasesError as error:
        reason = error.message.removeprefix(f"{host.name}: ")
        return (bad("ssh", reason, error.hint or "fab check again, when the server is up"),)
    opened.append(session)
    if host.transport == "local":
        return answered(stage, host, ref, session)
    way = ok("ssh", f"{host.user}@{host.address}:{host.port}, {time.monotonic() - started:.1f} s")
    where = "as releases.toml has it" if host.host_key else "as known_hosts has it"
    return (way, ok("host-key", f"{session.host_key}, {where}"), *answered(stage, host, ref, session))


def answered(stage: Stage, host: Host, ref: str, session: Session) -> tuple[Finding, ...]:
    """One round trip, and a look at the same ports from here."""
    proof = doctor.backups.repository(stage, host, challenge(stage), str(key_file(stage)))
    asked = (*doctor.questions(stage, host, ref, now()), *proof)
    at: list[Finding] = []
    sent = time.time()

    def hear(heard: Mark | str) -> None:
        if isinstance(heard, Mark) and heard.kind == "clock" and host.transport == "ssh":
            at.append(doctor.clock(sent, float(heard.words[0]), time.time()))

    result = session.run(doctor.ask(asked).text(), hear, timeout=doctor.LONGEST + 10)
    if result.lost:
        return (*at, bad("ssh", result.lost, "fab check again; what it was doing changes nothing"))
    marks = tuple((mark.kind, *mark.words) for mark in result.marks)
    reached, doors = from_here(stage, host, doctor.exposed(stage, host, marks))
    opened = tried_from_here(stage) if host == stage.primary else ()
    return (*at, *doctor.read(asked, marks, host.name, reached), *opened, *doors)


def from_here(stage: Stage, host: Host, ports: tuple[int, ...]) -> tuple[frozenset[int], tuple[Finding, ...]]:
    """Which of the ports answer this machine, and whether users would find the application."""
    if host.transport == "local":
        return frozenset(), ()
    doors = {(host.address, port) for port in doctor.doors(stage, host)}
    doors |= {(stage.domain.partition(":")[0], port) for _, port in doors if stage.domain}
    tried = sorted({(host.address, port) for port in ports} | doors)
    with ThreadPoolExecutor(max_workers=16) as pool:
        why = dict(zip(tried, pool.map(lambda one: unanswered(*one), tried), strict=True))
    reached = frozenset(port for address, port in tried if address == host.address and not why[address, port])
    return reached, tuple(doctor.door(address, port, why[address, port]) for address, port in sorted(doors))


def unanswered(address: str, port: int) -> str:
    """Why a connection from here fails; "" when it does not."""
    try:
        socket.create_connection((address, port), timeout=PATIENCE).close()
    except TimeoutError:
        return f"no answer within {PATIENCE} s"
    except OSError as error:
        return error.strerror or str(error)
    return ""


TASKS = ("check",)
