"""Runs pg_dump and pg_restore of the server's own version, connected as Django is: the same place, login and role."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import Callable

from project_answer import Refused, say
from project_sessions import fetch, quote

SECRET = ("password", "sslpassword")  # never in argv; libpq has no variable for the second
# What every libpq knows; that of the driver may be newer, and have defaults for what pg_dump never heard of.
KNOWN = (
    *("host", "hostaddr", "port", "user", "options", "connect_timeout", "target_session_attrs", "requirepeer"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "channel_binding", "gssencmode", "krbsrvname"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
# Resolved already, or not for a dump: the archive has the encoding of the database.
NOT_PASSED_ON = (*SECRET, "service", "passfile", "client_encoding", "application_name", "fallback_application_name")
SERVICE = ("PGSERVICE", "PGSERVICEFILE")  # would win over the password in our environment
LOOK = 0.25  # seconds between two looks at whether it can go on
MOST = 1 << 20  # bytes of its talk that are read


def client(
    connection, program: str, *words: str, database: str = "", name: str = "", watch: Callable = lambda: None
) -> list[str]:
    """Returns what it warned of. Without `database` it connects to none. `name` is what its session calls itself;
    `watch` is asked all the time, and what it raises ends the program.
    """
    where, environment = as_django_connects(connection, database, name) if database else ([], dict(os.environ))
    with tempfile.TemporaryFile() as talk:
        process = subprocess.Popen(
            [path_of(connection, program), *where, *words], env={**environment, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=talk)  # fmt: skip
        try:
            code = ended(process, watch)
        except BaseException:
            process.kill()
            process.wait()
            raise
        talk.seek(max(0, talk.tell() - MOST))
        told = talk.read().decode(errors="replace")
    if code:
        say(told[-4000:])
        refuse(connection, program, told, code)
    return [line for line in told.splitlines() if line.strip()]


def ended(process: subprocess.Popen, watch: Callable) -> int:
    while True:
        try:
            return process.wait(LOOK)
        except subprocess.TimeoutExpired:
            watch()


def path_of(connection, program: str) -> str:
    major = connection.pg_version // 10000
    own = f"/usr/lib/postgresql/{major}/bin/{program}"
    path = own if os.path.exists(own) else shutil.which(program)
    if path is None:
        raise Refused(f"{program} is not installed.", f"apt install postgresql-client-{major}")
    return path


def as_django_connects(connection, database: str, name: str) -> tuple[list[str], dict]:
    """Words and environment, from what the live session of Django's came to: a service file, its own parameters and
    variables count in another order there than here. The password alone is in the environment.
    """
    connection.ensure_connection()
    info = connection.connection.info
    found = info.get_parameters() if hasattr(info, "get_parameters") else info.dsn_parameters
    told = (*KNOWN, *connection.get_connection_params())
    parameters = {key: value for key, value in found.items() if key in told and key not in NOT_PASSED_ON}
    parameters["dbname"] = database
    if name:
        parameters["application_name"] = name
    words = ["--dbname=" + " ".join(f"{key}={quoted(value)}" for key, value in parameters.items())]
    now, login = fetch(connection, "SELECT current_user, session_user")[0]
    if now != login:
        words.append(f"--role={now}")
    environment = {key: value for key, value in os.environ.items() if key not in SERVICE}
    if info.password:
        environment["PGPASSWORD"] = info.password
    return words, environment


def quoted(value: object) -> str:
    """For a connection string of libpq."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def refuse(connection, program: str, told: str, code: int) -> None:
    reason = next((line for line in told.splitlines() if "error:" in line), f"exit {code}")
    hint = "Nothing was switched; the lines on stderr say more."
    if "unsupported version" in reason:
        major = connection.pg_version // 10000
        hint = f"A newer pg_dump wrote it than this {program} of {major}: restore it where PostgreSQL is newer."
    if "max_locks_per_transaction" in told:
        hint = more_locks(connection)
    elif program == "pg_dump" and "permission denied" in reason:
        hint = read_everything(connection)
    raise Refused(f"{program} failed: {reason}", hint)


def read_everything(connection) -> str:
    user = fetch(connection, "SELECT current_user")[0][0]
    return f"A table belongs to another role. As postgres: GRANT pg_read_all_data TO {quote(user)};"


def more_locks(connection) -> str:
    """With a number: every table of a dump is a lock, and what the application does needs some too."""
    tables, per, sessions = fetch(connection, LOCKS)[0]
    wanted = max(2 * per, -(-2 * tables // sessions))
    return (
        f"It has {tables:,} tables, and a dump locks each. As postgres: ALTER SYSTEM SET max_locks_per_transaction ="
        f" {-(-wanted // 64) * 64}; then restart PostgreSQL."
    )


LOCKS = """
    SELECT (SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
            WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_' AND nspname <> 'information_schema'),
        current_setting('max_locks_per_transaction')::int,
        current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int"""
