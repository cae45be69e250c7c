"""The archive of a server that was lost, only ever read: how far it goes, and its database as it was then.

`look CLUSTER` answers one JSON object. `take CLUSTER DATABASE RELEASE FOLDER` leaves FOLDER/NAME.dump, NAME.json and
postgresql.json there, as a backup of the last second that was archived would be, and answers NAME and that second. What
belongs to the application is dumped and counted as its role: its code never meets a superuser.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pgbackrest
from pgbackrest import Reach, Refused

PLACE = Path(__file__).parent
OURS = "-c search_path=pg_catalog"
APPLIED = "select app || '.' || name from public.django_migrations order by 1"
# What pg_dump dumps: not the tables of extensions. Planning a count looks into the functions of indexes, which find
# names as the application does: from there on everything of ours is said with its schema. Each table has its own
# transaction: locks of thousands, and of their indexes, would be more than there are.
COUNTS = """
    set search_path = pg_catalog;
    create temporary table counted as
    select format('%I.%I', nspname, relname) as name from pg_class c join pg_namespace n on n.oid = relnamespace
    where relkind = 'r' and relpersistence <> 't' and nspname !~ '^pg_' and nspname <> 'information_schema'
    and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e');
    create temporary table amounts (name text, amount bigint);
    reset search_path;
    do $do$
    declare
      one pg_catalog.text;
    begin
      for one in select name from pg_temp.counted loop
        execute pg_catalog.format('insert into pg_temp.amounts select %L, pg_catalog.count(*) from only %s', one, one);
        commit;
      end loop;
    end
    $do$;
    select coalesce(pg_catalog.json_object_agg(name, amount), '{}') from pg_temp.amounts"""
LAST = re.compile(r"last completed transaction was at log time (.*)")


def look(cluster: str) -> dict[str, Any]:
    reach, version, is_followed = newest(cluster)
    return {"until": reach.end.isoformat(), "version": version, "followed": is_followed}


def newest(cluster: str) -> tuple[Reach, str, bool]:
    """The newest backup of the lost cluster, its version, and whether another cluster has archived after it."""
    told = pgbackrest.info()
    clusters = told[0].get("db", []) if told else []
    if not clusters:
        raise Refused("there is no archive", "is it in another place?")
    if not cluster and len(clusters) > 1:
        raise Refused("which of its clusters was lost is not in the snapshot", "it was sent before that was noted")
    mine = [one for one in clusters if str(one["system-id"]) == cluster] if cluster else clusters
    if not mine:
        raise Refused("it is the archive of another database cluster, not of the lost one", "mount the right one")
    found = [one for one in pgbackrest.reaches({}) if one.cluster == mine[-1]["id"]]
    if not found:
        raise Refused("it has no complete backup of the cluster that was lost", "nothing can be had from it")
    return found[-1], mine[-1]["version"], mine[-1] != clusters[-1]


def take(cluster: str, database: str, release: str, folder: str) -> dict[str, Any]:
    reach, _, _ = newest(cluster)
    side = pgbackrest.PLACE / f"{database}-lost"
    pgbackrest.remove(side)
    try:
        pgbackrest.restore(side, None, reach)
        with pgbackrest.running(side, database, "postgres"):
            last = LAST.findall((side / "log").read_text(errors="replace"))
            at = pgbackrest.moment(last[-1]) if last else reach.start
            return dumped(side, database, Path(folder), {"taken_at": at.isoformat(), "release": release})
    finally:
        pgbackrest.remove(side)


def dumped(side: Path, database: str, folder: Path, said: dict[str, str]) -> dict[str, Any]:
    """Nobody else is in that cluster: rows may be counted after it."""
    programs = Path(f"/usr/lib/postgresql/{(side / 'data/PG_VERSION').read_text().strip()}/bin")
    name = f"{datetime.fromisoformat(said['taken_at']).astimezone(UTC):%Y%m%d-%H%M%S}"
    file = folder / f"{name}.dump"
    run(programs / "pg_dump", "-Fc", "-Z1", f"--file={file}", f"--username={database}", database)
    run(programs / "pg_restore", "--file=/dev/null", file)
    (folder / "postgresql.json").write_text(ask("postgres", "postgres", (PLACE / "cluster.sql").read_text()))
    rows = json.loads(ask(database, database, COUNTS))
    version, encoding, size = (
        ask(database, database, query).strip()
        for query in ("show server_version", "show server_encoding", "select pg_database_size(current_database())")
    )
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256") if sys.version_info >= (3, 11) else hashlib.sha256(data.read())
    facts = {
        "name": name,
        "kind": "backup",
        "application": database,
        "engine": "postgresql",
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": digest.hexdigest(),
        "database": database,
        "database_bytes": int(size),
        "server_version": version,
        "encoding": encoding,
        "rows": rows,
        "applied": ask(database, database, APPLIED).splitlines() if "public.django_migrations" in rows else [],
        **said,
    }
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1))
    return {"name": name, "taken_at": said["taken_at"]}


def ask(user: str, database: str, query: str) -> str:
    options = OURS if user == "postgres" else ""
    return run(
        "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, "-f", "-", text=query, options=options
    )


def run(*words: str | Path, text: str = "", options: str = "") -> str:
    """Of the cluster beside, whose socket lies in our own runtime directory."""
    where = {**os.environ, "PGHOST": os.environ["RUNTIME_DIRECTORY"], "PGPORT": "5432", "PGOPTIONS": options}
    done = subprocess.run(words, input=text, capture_output=True, text=True, env=where, check=False)
    if done.returncode:
        raise Refused(f"{Path(words[0]).name} failed: {done.stderr.strip()[-500:]}", "nothing was touched")
    return done.stdout


def main(verb: str, *words: str) -> None:
    signal.signal(signal.SIGTERM, pgbackrest.stop)
    try:
        print(json.dumps(take(*words) if verb == "take" else look(*words)))
    except Refused as error:
        print(json.dumps({"error": error.error, "hint": error.hint}))


if __name__ == "__main__":
    os.umask(0o077)
    os.chdir("/")
    main(*sys.argv[1:])
