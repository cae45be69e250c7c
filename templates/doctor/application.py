"""Asks what only the live release's settings know, its database or its Redis; the last line is the answer, as JSON.

`python -c PROGRAM database` or `... redis QUEUE...`, with the application's environment; Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from urllib.parse import unquote, urlsplit

SECONDS = 4
# Tables of which a backup by this role would lack rows, so that none is taken.
HIDDEN = """
select quote_ident(current_user), coalesce(string_agg(oid::regclass::text, ', ' order by 1), '')
from pg_class where relkind in ('r', 'p') and relrowsecurity and row_security_active(oid)
"""
POSTGRESQL = """
select current_setting('server_version'), pg_database_size(current_database()), current_setting('data_checksums'),
       current_setting('max_connections')::int, (select sum(numbackends) from pg_stat_database)::int
"""


def database() -> dict:
    """Facts; `error` when it is not reached with these settings."""
    sys.path.insert(0, os.path.join(os.environ["RELEASE_ROOT"], ".release"))  # noqa: PTH118
    from project import load_project
    from project_answer import clean, failure

    facts = {}
    try:
        from project_databases import migrated, prefix, writable
        from project_indexes import invalid

        load_project()
        from django.db import connections
        from django.db.migrations.executor import MigrationExecutor

        connection = connections["default"]
        facts["vendor"] = connection.vendor
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("set statement_timeout = %s", [SECONDS * 1000])
                cursor.execute(POSTGRESQL)
                facts["version"], facts["bytes"], facts["checksums"], facts["most"], facts["connections"] = (
                    cursor.fetchone()
                )
                cursor.execute(HIDDEN)
                facts["role"], facts["hidden"] = cursor.fetchone()
        facts.update(pending=[], unfinished=[], also=writable()[1:], left=migrated()[1])
        for alias in ["default", *facts["also"]]:
            executor = MigrationExecutor(connections[alias])
            plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
            facts["pending"] += [f"{prefix(alias)}{one.app_label}.{one.name}" for one, _ in plan]
            facts["unfinished"] += [f"{prefix(alias)}{name}" for name in invalid(connections[alias])]
    except BaseException as error:  # an application may call sys.exit() while it is imported
        return clean({**facts, **failure(error)})
    return facts


def redis(queues: list) -> dict:
    """One answer per server and database that a variable of the environment names."""
    found = {}
    for name, value in sorted(os.environ.items()):
        if value.startswith(("redis://", "rediss://", "unix://", "redis+socket://")):
            url = urlsplit(value)
            found.setdefault((url.scheme, url.hostname, url.port, url.path), (name, url))
    return {"servers": [{"name": name, **asked(url, queues)} for name, url in found.values()]}


def asked(url: object, queues: list) -> dict:
    """Its words about memory, and how much waits in each queue; `error` when it is not reached or refuses us."""
    try:
        with connected(url) as link, link.makefile("rwb") as stream:
            if url.password:
                words = [unquote(url.username)] if url.username else []
                talk(stream, "AUTH", *words, unquote(url.password))
            talk(stream, "PING")
            number = url.path.strip("/")
            if number.isdigit() and number != "0":
                talk(stream, "SELECT", number)
            facts = {"waiting": {queue: talk(stream, "LLEN", queue) for queue in queues}}
            for section in ("server", "memory"):
                lines = [line.partition(":") for line in talk(stream, "INFO", section).splitlines()]
                facts.update(
                    {
                        key: value
                        for key, _, value in lines
                        if key in ("redis_version", "maxmemory", "used_memory", "maxmemory_policy")
                    }
                )
            return facts
    except TimeoutError:
        return {"error": f"no answer within {SECONDS} s"}
    except (OSError, ValueError) as error:
        return {"error": getattr(error, "strerror", None) or str(error) or type(error).__name__}


def connected(url: object) -> socket.socket:
    if url.scheme in ("unix", "redis+socket"):
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(SECONDS)
        link.connect(url.path)
        return link
    link = socket.create_connection((url.hostname or "localhost", url.port or 6379), timeout=SECONDS)
    if url.scheme == "redis":
        return link
    context = ssl.create_default_context()
    if "ssl_cert_reqs=none" in url.query.lower() or "ssl_cert_reqs=cert_none" in url.query.lower():
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(link, server_hostname=url.hostname)


def talk(stream: object, *words: str) -> object:
    """One command and its answer. ValueError with Redis's own words when it refuses; they repeat no password."""
    parts = [word.encode() for word in words]
    stream.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    stream.flush()
    line = stream.readline()
    kind, rest = line[:1], line[1:].strip().decode(errors="replace")
    if not line:
        raise ValueError("it hung up")
    if kind == b"-":
        raise ValueError(rest)
    if kind == b"$":
        size = int(rest)
        return stream.read(size + 2)[:size].decode(errors="replace") if size >= 0 else ""
    return int(rest) if kind == b":" else rest


if __name__ == "__main__":
    said = database() if sys.argv[1] == "database" else redis(sys.argv[2:])
    print("\n" + json.dumps(said, default=str), flush=True)
    os._exit(0)  # threads an application left running would keep us here
