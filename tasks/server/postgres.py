"""Sessions with this machine's PostgreSQL that carry out nothing but statements of ours.

What is said is a constant text; names and values travel beside it, as variables of psql (`-v`, quoted by `:"name"` and
`:'value'`) or as JSON in a file that only the session has, and become parts of statements by format('%I', '%L') on the
server. Nothing but pg_catalog is searched for functions and operators: those of an application are never met.

A superuser never loads or counts what an application owns. That is done by `login`: a role of its own that is a member
of the owner and nothing else, so that code of the application finds no superuser to go back to (RESET ROLE).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import accounts, telling
from .refused import Refused

ACCOUNT = "postgres"
MAINTENANCE = "postgres"
"""The database in which a superuser works: it belongs to nobody else."""
WHERE: dict[str, str] = {}
"""PGHOST and PGPORT of the cluster; {}: this machine's own."""
CATALOG = "-c search_path=pg_catalog"
QUIETLY = f"{CATALOG} -c log_statement=none -c log_min_error_statement=panic -c log_min_duration_statement=-1"
"""Passwords are among the values: none of them reaches the log."""
TOLD = 500
"""Characters of an error that people see."""
MOST = 1 << 20
"""Bytes of errors of a client that are read."""

# What is given is asked for by current_setting in a block of PL/pgSQL, where psql puts in no variables.
TAKE_GIVEN = """\
\\set given `cat "$FAB_GIVEN"`
select set_config('fab.given', :'given', false) \\g /dev/null
"""
LOGIN = f"""\
begin;
{TAKE_GIVEN}
set local password_encryption = 'scram-sha-256';
do $do$
declare
  given json := current_setting('fab.given')::json;
begin
  if (select rolsuper from pg_roles where rolname = (given ->> 'owner')::name) is distinct from false then
    raise 'the role % is a superuser, or not there', given ->> 'owner';
  end if;
  execute format('create role %I login inherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls '
    'password %L valid until %L', given ->> 'name', given ->> 'password', now() + interval '1 day');
  execute format('grant %I to %I', given ->> 'owner', given ->> 'name');
  execute format('alter role %I set role = %L', given ->> 'name', given ->> 'owner');
end
$do$;
select current_setting('port'), current_setting('server_version_num')::int / 10000;
commit;
"""
# Code of the application may have left something of its own behind: then it stays, and lets nobody in.
LOGOUT = """\
do $do$
declare
  one name;
begin
  for one in select rolname from pg_roles where rolname ~ '^fab_recover_[0-9a-f]{16}$' loop
    execute format('alter role %I nologin', one);
    perform pg_terminate_backend(pid) from pg_stat_activity where usename = one;
    begin
      execute format('drop role %I', one);
    exception when dependent_objects_still_exist then null;
    end;
  end loop;
end
$do$;
select rolname from pg_roles where rolname ~ '^fab_recover_[0-9a-f]{16}$';
"""


@dataclass(frozen=True)
class Login:
    """How a client gets in as the owner of the data, for a while."""

    owner: str
    account: str
    """Who runs the clients here: an archive and what it holds are read by nobody greater."""
    name: str
    password: str = field(repr=False)
    port: str
    version: str
    """Of the server: "15"."""

    def environment(self, database: str, search_path: str = "pg_catalog") -> dict[str, str]:
        escaped = re.sub(r"([\\\s])", r"\\\1", search_path)
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": self.port,
            "PGUSER": self.name,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
            "PGOPTIONS": f"-c search_path={escaped}",
            "PGCONNECT_TIMEOUT": "20",
            "PGPASSFILE": "/dev/null",
            "PGSERVICEFILE": "/dev/null",
        }


def superuser(text: str, *, given: object = None, database: str = MAINTENANCE, **names: str) -> str:
    """What a constant text answers. `names` are not for secrets: they are seen in the process list.

    `database` is another one only where there is no way round it: nothing but catalogues is asked there, or there is
    nothing of the application's in it yet.
    """
    environment = {**WHERE, "PGDATABASE": database, "PGOPTIONS": QUIETLY}
    answer: str = accounts.run_as(ACCOUNT, lambda: _psql(text, given, environment, names))
    return answer


def asked(login: Login, database: str, text: str, given: object = None) -> str:
    """What a constant text answers, said as the owner of the data."""
    answer: str = accounts.run_as(login.account, lambda: _psql(text, given, login.environment(database), {}))
    return answer


def lets_in(role: str, password: str) -> bool:
    """Whether the password is that of the role."""
    port = superuser("show port;\n").strip()
    where = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": role, "PGPASSWORD": password, "PGDATABASE": MAINTENANCE}
    words = ["psql", "-XqAtw", "-c", "select 1"]
    environment = {**os.environ, **where, "PGCONNECT_TIMEOUT": "5", "PGPASSFILE": "/dev/null"}
    return subprocess.run(words, env=environment, cwd="/", capture_output=True, check=False).returncode == 0


@contextmanager
def login(owner: str, account: str) -> Iterator[Login]:
    """Refused for an owner that is a superuser. What an earlier run has left of itself is removed as well."""
    superuser(LOGOUT)
    name, password = f"fab_recover_{secrets.token_hex(8)}", secrets.token_urlsafe(32)
    told = superuser(LOGIN, given={"name": name, "password": password, "owner": owner})
    port, version = told.strip().split("|")
    try:
        yield Login(owner, account, name, password, port, version)
    finally:
        if left := superuser(LOGOUT).split():
            telling.warn(
                f"the role {', '.join(left)} is left, and lets nobody in: code of the application gave it objects"
            )


def client(login: Login, program: str, *words: str, search_path: str = "") -> tuple[int, str, str]:
    """pg_restore or pg_dump of the server's version: its exit status, its output, and the beginning of its errors.

    Words are seen in the process list. `search_path` is where names of an application are found, if not nowhere.
    """
    own = f"/usr/lib/postgresql/{login.version}/bin/{program}"
    path = own if os.path.exists(own) else program

    def work() -> list[object]:
        environment = {**os.environ, **login.environment(MAINTENANCE, search_path or "pg_catalog"), "LC_ALL": "C.UTF-8"}
        with tempfile.TemporaryFile() as errors:  # code of the application may have a lot to say
            done = subprocess.run(
                [path, *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                check=False,
            )
            errors.seek(0)
            return [done.returncode, done.stdout.decode(errors="replace"), errors.read(MOST).decode(errors="replace")]

    code, output, said = accounts.run_as(login.account, work)
    return int(code), str(output), str(said)


def conninfo(database: str) -> str:
    """Of a database whatever its name: by itself one with a "=" in it would be read as a connection string."""
    quoted = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{quoted}'"


def _psql(text: str, given: object, environment: Mapping[str, str], names: Mapping[str, str]) -> str:
    settings = {"ON_ERROR_STOP": "1", "VERBOSITY": "terse", "SHOW_CONTEXT": "never", **names}
    words = [word for name, value in settings.items() for word in ("-v", f"{name}={value}")]
    with os.fdopen(os.memfd_create("given"), "wb") as file:
        file.write(json.dumps(given, ensure_ascii=False).encode())
        file.flush()
        where = {"LC_ALL": "C.UTF-8", "FAB_GIVEN": f"/proc/self/fd/{file.fileno()}"}
        done = subprocess.run(
            ["psql", "-XqAtw", *words, "-f", "-"],
            input=text.encode(),
            capture_output=True,
            env={**os.environ, **environment, **where},
            pass_fds=(file.fileno(),),
            check=False,
        )
    if done.returncode:
        raise Refused(
            _first(done.stderr.decode(errors="replace")), "it is PostgreSQL that says so: its log may say more"
        )
    return done.stdout.decode(errors="replace")


def _first(said: str) -> str:
    lines = [line.rpartition("ERROR:  ")[2] or line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "NOTICE" not in line and "WARNING" not in line]
    return " ".join((errors or ["it said nothing"])[0].split())[:TOLD]
