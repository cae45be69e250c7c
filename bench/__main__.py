"""Deploys and rolls back with every tool in turn on one real server, and prints a table.

    python -m bench [--rounds 5] [--rtt 0 50] [--write docs/benchmarks.md]

Needs root on Debian; installs Capistrano and Ansible from Debian's packages. Ratios within one run are what counts:
tools take turns round by round, so that a noisy machine is noisy for all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from examples.revisions import make
from tests import servers
from tests.servers.faults import slow_link
from tests.servers.server import Server, client_key
from tests.servers.shop import REQUIREMENTS, Shop, make_shop

from .rivals import Rival, floor_units, rivals, units
from .users import users

OURS = {"fab-releases": "", "fab-releases, keep_warm": "keep_warm = true\n"}
"""Name -> what its releases.toml says more, in the stage's table."""


@dataclass
class Row:
    """What one tool did: seconds of each run, answers that were not 200, connections and execs of the last run."""

    name: str
    deploys: list[float] = field(default_factory=list)
    rollbacks: list[float] = field(default_factory=list)
    failed: int = 0
    asked: int = 0
    counts: tuple[int, int] = (0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rtt", type=float, nargs="*", default=[0, 50], help="round trips in milliseconds")
    parser.add_argument("--write", type=Path, help="also write the tables there")
    asked = parser.parse_args()
    if reason := servers.unavailable():
        print(f"no real servers on this machine: {reason}", file=sys.stderr)
        return 2
    _install("capistrano", "ansible-core" if not shutil.which("ansible-playbook") else "")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        page = measure(folder, asked.rounds, asked.rtt)
    finally:
        servers.close_all()
        shutil.rmtree(folder)
    print(page)
    if asked.write:
        asked.write.write_text(f"{page}\n")
    return 0


def measure(folder: Path, rounds: int, round_trips: list[float]) -> str:
    revisions = origin(folder / "origin")
    server = Server.boot("bench", image=servers.warm(REQUIREMENTS))
    shop = make_shop(folder / "ours", [server], folder / "origin", workers=2)
    prepare(server)
    parts = [header(rounds)]
    for round_trip in round_trips:
        with (
            slow_link(server, round_trip) if round_trip else nullcontext((server.address, server.ssh_port)) as (
                address,
                port,
            )
        ):
            shop.configure(addresses=[(address, port)])
            rows = one_link(folder / f"rtt{round_trip:g}", shop, address, port, revisions, rounds)
        parts.append(table(f"Round trip {round_trip:g} ms", rows))
    return "\n".join(parts)


def origin(path: Path) -> tuple[str, str]:
    """Two commits that differ in one line of code: neither packages, migrations nor static files change."""
    make(path)
    git = ["git", "-C", str(path), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for name in ("a", "b"):
        (path / "pos" / "bench.py").write_text(f'"""Code that changed: {name}."""\n')
        for words in (["add", "-A"], ["commit", "-qm", f"bench {name}"], ["tag", f"bench-{name}"]):
            subprocess.run([*git, *words], check=True)
    return "bench-a", "bench-b"


def prepare(server: Server) -> None:
    """Folders, units and environments of the other tools; one database and one Redis for all."""
    environment = server.run("cat /srv/pos/shared/.env.production").stdout.replace(
        "pos.test", "pos.test,floor.test,cap.test,ansible.test,inplace.test"
    )
    server.put("/srv/pos/shared/.env.production", environment, mode=0o640, owner="deploy:app")
    for app in ("floor", "cap", "ansible", "inplace"):
        for path, text in (floor_units() if app == "floor" else units(app)).items():
            server.put(path, text, mode=0o440 if "sudoers" in path else 0o644)
        server.run(
            f"install -d -o deploy -g app /srv/{app} /srv/{app}/releases /srv/{app}/environments /srv/{app}/shared && "
            f"install -d -o app -g www-data -m 2775 /srv/{app}/shared/media /srv/{app}/media"
        )
        server.put(
            f"/srv/{app}/env" if app == "inplace" else f"/srv/{app}/shared/env",
            environment,
            mode=0o640,
            owner="deploy:app",
        )
    server.run(
        "sed -i 's/^#*LogLevel.*/LogLevel VERBOSE/' /etc/ssh/sshd_config; systemctl daemon-reload; "
        "systemctl reload ssh nginx"
    )
    server.run(
        "git init -q --bare /srv/floor/repo.git && git clone -q /srv/git/pos.git /srv/inplace/app && "
        "cd /srv/inplace/app && "
        "rm -rf media && ln -s /srv/inplace/media media && python3 -m venv .venv",
        user="deploy",
        timeout=300,
    )


def one_link(folder: Path, shop: Shop, address: str, port: int, revisions: tuple[str, str], rounds: int) -> list[Row]:
    folder.mkdir()
    others = rivals(folder, ["ssh"], address, port, client_key())
    rows = {name: Row(name) for name in (others[0].name, *OURS, *(one.name for one in others[1:]))}
    for number in range(
        -1, rounds
    ):  # the first round warms up (packages, mirrors, caches) and is what others go back to
        new, old = reversed(revisions) if number < 0 else revisions
        for name, row in rows.items():
            rival = next((one for one in others if one.name == name), None)
            deploy = _ours(shop, folder, name, "deploy", "--ref", new) if rival is None else _theirs(folder, rival, new)
            rollback = (
                _ours(shop, folder, name, "rollback") if rival is None else _theirs(folder, rival, old, back=True)
            )
            with users(shop.server, f"{_door(name)}.test") as seen:
                deploy_seconds, counts = _timed(shop.server, deploy)
                rollback_seconds = _timed(shop.server, rollback)[0] if number >= 0 else 0.0
            if number >= 0:
                row.deploys.append(deploy_seconds)
                row.rollbacks.append(rollback_seconds)
                row.failed, row.asked, row.counts = row.failed + seen.failed, row.asked + seen.asked, counts
            print(f"{name}: {deploy_seconds:.2f} {rollback_seconds:.2f}", file=sys.stderr)
    return list(rows.values())


def _door(name: str) -> str:
    return {"floor": "floor", "deploy.sh": "inplace", "Capistrano": "cap", "Ansible": "ansible"}.get(
        name.split(":")[0].split(" ")[0], "pos"
    )


def _ours(shop: Shop, folder: Path, name: str, *words: str) -> dict[str, object]:
    """With bytecode kept from one run to the next, as in any installation, whatever this shell says."""
    place = folder / name
    place.mkdir(exist_ok=True)
    for file, more in (("fabfile.py", ""), ("releases.toml", OURS[name])):
        (place / file).write_text((shop.folder / file).read_text() + more)
    environment = shop.environment({"PYTHONPYCACHEPREFIX": str(shop.folder / "bytecode")})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return {"args": shop.command(*words), "cwd": place, "env": environment, "input": ""}


def _theirs(folder: Path, rival: Rival, ref: str, *, back: bool = False) -> dict[str, object]:
    words = [word.format(ref=ref, old=ref) for word in (rival.rollback if back else rival.deploy)]
    environment = {**os.environ, "REF": ref, "ANSIBLE_CONFIG": str(folder / "ansible.cfg")}
    return {
        "args": words,
        "cwd": folder / "cap" if words[0] == "cap" else folder,
        "env": environment,
        "input": rival.rollback_script if back else rival.script,
    }


def _timed(server: Server, call: dict[str, object]) -> tuple[float, tuple[int, int]]:
    """Whole-process seconds, and (connections, execs) that sshd saw."""
    since = server.run("date +%s.%N").stdout.strip()
    started = time.monotonic()
    done = subprocess.run(
        call["args"], cwd=call["cwd"], env=call["env"], input=call["input"], text=True, capture_output=True, timeout=600
    )  # type: ignore[call-overload]
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{call['args']} failed: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    log = server.run(f"journalctl -q -u ssh -o cat --since @{since}").stdout
    return seconds, (log.count("Accepted publickey"), log.count("Starting session: "))


def table(title: str, rows: list[Row]) -> str:
    floor = rows[0]
    lines = [
        f"\n## {title}",
        "| tool | deploy s | x floor | rollback s | x floor | connections / execs | not answered 200 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        deploy, rollback = statistics.median(row.deploys), statistics.median(row.rollbacks)
        ratios = (
            statistics.median(a / b for a, b in zip(row.deploys, floor.deploys, strict=True)),
            statistics.median(a / b for a, b in zip(row.rollbacks, floor.rollbacks, strict=True)),
        )
        lines.append(
            f"| {row.name} | {deploy:.2f} | {ratios[0]:.2f} | {rollback:.2f} | {ratios[1]:.2f} | "
            f"{row.counts[0]} / {row.counts[1]} | {row.failed} of {row.asked} |"
        )
    return "\n".join(lines)


def header(rounds: int) -> str:
    return f"""# Benchmarks

`make bench` prints these tables (`python -m bench --write docs/benchmarks.md` keeps them).
{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Linux {platform.release().split("-")[0]},
medians of {rounds} rounds, the tools taking turns; ratios are medians of the ratios within each round.

The work: the example application (`examples/pos`: web, worker and beat, PostgreSQL, Redis, nginx) on one real server,
a commit that changes one line of code and nothing else; then a rollback. Seconds are of the whole process on the
operator's side, its start included. Meanwhile 20 requests a second ask the tool's own front door.

The floor is one hand-written script over one ssh connection that switches and shares environments as ours does, with a
fixed set of checks and no lock across hosts, no way back, no plan and no report. Nor does it wait, as ours does, until
the new Celery worker answers (Celery alone asks its neighbours for one second), until nobody queues for the old
processes, and until beat runs. `bench/rivals.py` has it and the others. Round trips are made by a delay proxy on
loopback.

The aims are 1.3 x the floor, and a fifth of the time of Capistrano and Ansible at 50 ms: where a table says otherwise
they are not met.
"""


def _install(*packages: str) -> None:
    missing = [one for one in packages if one and not shutil.which({"capistrano": "cap"}.get(one, one))]
    if missing:
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing],
            check=True,
            stdout=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    raise SystemExit(main())
