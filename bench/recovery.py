"""Backs a database up and restores it with every way in turn on one real server, and prints a table.

    python -m bench.recovery [--megabytes 1024] [--rounds 1] [--write docs/recovery-benchmarks.md]

Needs root on Debian. Each way restores what it backed up itself, alone and then while users ask the site. pgBackRest
comes last: its archiving would make every other way write more.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import uv

from examples.revisions import make
from tests import servers
from tests.servers.server import Server
from tests.servers.shop import REQUIREMENTS, Shop, make_shop

from .users import Seen, users

DBBACKUP = "django-dbbackup==5.4.0"
SALES_PER_MEGABYTE = 3200
FILL = """
insert into sales_sale (uid, product_id, quantity, total, note, sold_at)
    select md5(g::text), (select min(id) from inventory_product), 1, g % 100000 / 100.0, md5((g * 7)::text),
        timestamptz '2026-01-01' + g * interval '1 second'
    from generate_series(1, {sales}) g;
vacuum analyze;
checkpoint;
"""
DBBACKUP_SETTINGS = """
from pos.settings import *
INSTALLED_APPS = [*INSTALLED_APPS, "dbbackup"]
STORAGES = {**STORAGES, "dbbackup": {
    "BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": "/srv/dbbackup/files"}}}
"""
MANAGE = (
    "cd /srv/pos/current && set -a && . /srv/pos/shared/.env.production && set +a && "
    "export RELEASE_ID=bench PYTHONPATH=/srv/dbbackup DJANGO_SETTINGS_MODULE=bench_settings && "
    ".venv/bin/python manage.py"
)
PGBACKREST = """
[global]
repo1-path=/var/lib/pgbackrest
repo1-retention-full=2
start-fast=y
process-max=2
compress-type=zst
[main]
pg1-path=/var/lib/postgresql/15/main
"""


@dataclass(frozen=True)
class Way:
    """One way to do both; each waits until it is done."""

    name: str
    backup: Callable[[], object]
    restore: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass
class Row:
    """Seconds of each run, and what users saw of the restores."""

    backups: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    restores: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    failed: int = 0
    asked: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024, help="of the database on disk, about")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", type=Path, help="also write the table there")
    asked = parser.parse_args()
    if reason := servers.unavailable():
        print(f"no real servers on this machine: {reason}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        page = measure(folder, asked.megabytes, asked.rounds)
    finally:
        servers.close_all()
        shutil.rmtree(folder)
    print(page)
    if asked.write:
        asked.write.write_text(page)
    return 0


def measure(folder: Path, megabytes: int, rounds: int) -> str:
    make(folder / "origin")
    server = Server.boot("bench", image=servers.warm(REQUIREMENTS))
    shop = make_shop(folder / "ours", [server], folder / "origin", workers=2)
    shop.fab("deploy")
    size, page = fill(server, megabytes)
    gather(server, folder / "packages")
    rows: dict[str, Row] = {}
    *by_turns, last = ways(shop)
    for _ in range(rounds):
        for way in by_turns:
            run(shop, way, page, rows.setdefault(way.name, Row()))
    last.prepare()
    for _ in range(rounds):
        run(shop, last, page, rows.setdefault(last.name, Row()))
    return header(size, rounds) + table(rows)


def fill(server: Server, megabytes: int) -> tuple[int, str]:
    """Bytes of the database then, and the page of the last sale: it answers only where all of it is there."""
    sales = megabytes * SALES_PER_MEGABYTE
    server.run("psql -XAtq -v ON_ERROR_STOP=1 pos", user="postgres", input=FILL.format(sales=sales), timeout=3600)
    size = server.run("psql -XAtqc \"select pg_database_size('pos')\"", user="postgres").stdout
    return int(size), f"/api/sales/{hashlib.md5(str(sales).encode()).hexdigest()}/"


def ways(shop: Shop) -> tuple[Way, ...]:
    server = shop.server

    def on_server(line: str, user: str = "postgres") -> Callable[[], object]:
        return lambda: server.run(f"set -euo pipefail\n{line}", user=user, timeout=3600)

    new = "dropdb --force pos && createdb --owner=pos pos"
    jobs = os.cpu_count()
    return (
        Way(
            "fab backup; fab restore-db",
            lambda: shop.fab("backup", timeout=3600),
            lambda: shop.fab("restore-db", "--date", "latest", "--yes", timeout=3600),
        ),
        Way(
            "pg_dump, gzip; drop, gunzip, psql",
            on_server("pg_dump pos | gzip >/var/tmp/plain.sql.gz"),
            on_server(f"{new} && gunzip -c /var/tmp/plain.sql.gz | psql -Xq -o /dev/null pos"),
        ),
        Way(
            f"pg_dump -Fc; drop, pg_restore -j {jobs}",
            on_server("pg_dump -Fc -f /var/tmp/custom.dump pos"),
            on_server(f"{new} && pg_restore -j {jobs} -d pos /var/tmp/custom.dump"),
        ),
        Way(
            "django-dbbackup",
            on_server(f"{MANAGE} dbbackup --noinput -v 0", "deploy"),
            on_server(f"{MANAGE} dbrestore --noinput -v 0", "deploy"),
        ),
        Way(
            "pgBackRest",
            on_server("pgbackrest --stanza=main --type=full --log-level-console=warn backup"),
            on_server(
                "systemctl stop postgresql@15-main && find /var/lib/postgresql/15/main -mindepth 1 -delete && "
                "runuser -u postgres -- pgbackrest --stanza=main --log-level-console=warn restore && "
                "systemctl start postgresql@15-main && until pg_isready -q; do sleep 0.1; done",
                "root",
            ),
            lambda: begin_archiving(server),
        ),
    )


def run(shop: Shop, way: Way, page: str, row: Row) -> None:
    await_page(shop, page)
    row.backups.append(timed(way.backup))
    row.alone.append(timed(way.restore))
    await_page(shop, page)
    with users(shop.server, "pos.test", page) as seen:
        row.restores.append(timed(way.restore))
        await_answer(seen)
    row.gaps.append(seen.longest_gap)
    row.failed, row.asked = row.failed + seen.failed, row.asked + seen.asked
    drop_kept(shop.server)
    seconds = f"{row.backups[-1]:.1f} {row.alone[-1]:.1f} {row.restores[-1]:.1f}"
    print(f"{way.name}: {seconds} gap {seen.longest_gap:.2f}", file=sys.stderr)


def drop_kept(server: Server) -> None:
    """What our restores keep for `--undo`: pgBackRest would copy it as well."""
    kept = "select format('drop database %I;', datname) from pg_database where datname ~ '^pos_before_' \\gexec\n"
    server.run("psql -XAtq -v ON_ERROR_STOP=1 postgres", user="postgres", input=kept, timeout=60)


def timed(do: Callable[[], object]) -> float:
    started = time.monotonic()
    do()
    return time.monotonic() - started


def await_page(shop: Shop, page: str) -> None:
    """Answered once what users of the restore before asked for and gave up is done with."""
    ask = f"curl -fsS -m 20 -o /dev/null -H 'Host: pos.test' http://127.0.0.1{page}"
    shop.server.run(f"until {ask}; do sleep 0.1; done", timeout=300)


def await_answer(seen: Seen) -> None:
    """The gap ends with an answer, not with the end of the tool."""
    before, patience = len(seen.answered), time.monotonic() + 60
    while len(seen.answered) < before + 3 and time.monotonic() < patience:
        time.sleep(0.05)


def gather(server: Server, folder: Path) -> None:
    """Debian's pgBackRest and the pure Python of django-dbbackup, fetched here: the server has no way out."""
    folder.mkdir()
    subprocess.run(
        ["apt-get", "download", "-q", "pgbackrest", "libssh2-1"], cwd=folder, check=True, capture_output=True
    )
    install = [uv.find_uv_bin(), "pip", "install", "-q", "--python", sys.executable, "--no-deps"]
    subprocess.run([*install, "--target", str(folder / "dbbackup"), DBBACKUP], check=True)
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        archive.add(folder, arcname=".")
    server.run("mkdir /var/tmp/packages && tar -x --no-same-owner -C /var/tmp/packages", input=text.getvalue())
    server.run(
        "mv /var/tmp/packages/dbbackup /srv/dbbackup && install -d -o deploy /srv/dbbackup/files && "
        "dpkg -i /var/tmp/packages/*.deb",
        timeout=120,
    )
    server.put("/srv/dbbackup/bench_settings.py", DBBACKUP_SETTINGS)


def begin_archiving(server: Server) -> None:
    server.put("/etc/pgbackrest.conf", PGBACKREST)
    server.run(
        "pg_conftool 15 main set archive_mode on && "
        "pg_conftool 15 main set archive_command 'pgbackrest --stanza=main archive-push %p' && "
        "systemctl restart postgresql@15-main && until pg_isready -q; do sleep 0.1; done && "
        "runuser -u postgres -- pgbackrest --stanza=main stanza-create"
    )


def header(size: int, rounds: int) -> str:
    return f"""# Backups and restores, measured

`python -m bench.recovery` prints this table (`--write docs/recovery-benchmarks.md` keeps it).
{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Linux {platform.release().split("-")[0]}, PostgreSQL 15,
a database of {size / 1e6:,.0f} MB on disk, {"one round" if rounds == 1 else f"medians of {rounds} rounds"}.

*Alone*: nobody asks the site. *In use*: 20 requests a second ask it for the last of all sales, and *unavailable* is the
longest time in which nobody got an answer of 200. What a time contains differs:

- `fab`: a backup is read whole before it gets its name, and its rows are counted in the dump's own snapshot. A restore
  compares size and SHA-256 before it asks and again before it begins, says what is newer than the backup, loads beside,
  counts every table, ANALYZEs, swaps, asks the site, and keeps the old database. The site works all the while, and
  takes its share of the processors.
- psql and pg_restore: what is live is dropped first, nothing is compared, counted or kept. Users who come back before
  the indexes do read all of a table for one sale, which makes these two slower in use than alone.
- django-dbbackup: one pg_restore drops and loads the live tables in one transaction. Users wait for it and cost it
  nothing, and when it fails all is as before. Nothing is compared or counted, and tables newer than the dump stay.
- pgBackRest: stops the server and copies its files, checksums compared, of every database in it. Indexes are copied,
  not built, which is about two thirds of the work of loading a dump.

The aims: a restore within 1.2 x of the fastest way by hand, and less than a second unavailable whatever the size.

"""


def table(rows: dict[str, Row]) -> str:
    lines = [
        "| way | backup s | restore alone s | in use s | unavailable s | requests failed |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {statistics.median(row.backups):.1f} | {statistics.median(row.alone):.1f} | "
            f"{statistics.median(row.restores):.1f} | "
            f"{statistics.median(row.gaps):.2f} | {row.failed} of {row.asked} |"
            for name, row in rows.items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
