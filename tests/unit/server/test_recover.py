"""What an application has put into its database is recovered without anybody becoming more than he was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.server import postgres, telling
from tasks.server.recover import database, fetched, roles
from tasks.server.recover.settings import split
from tasks.server.refused import Refused
from tasks.server.values import cluster as description
from tasks.server.values.site import Site
from tests.application import POSTGRES, Cluster, started
from tests.process_list import process_list

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: what it does is done by several accounts")
SITE = Site("/srv/pos", "pos", "production", {}, "systemd")
DUMPS = "/srv/pos/backups/database"
TEMPLATES = Path(__file__).parents[3] / "templates"
ACCOUNT = "daemon"
"""Who runs the clients: an account that every Debian has."""


@dataclass
class Place:
    """A cluster that was lost, then a bare one, and what was fetched from the first."""

    cluster: Cluster
    folder: Path
    marker: Path
    """Only account postgres would make it."""

    @property
    def dumps(self) -> Path:
        return self.folder / "recovered" / DUMPS[1:]

    def say(self, text: str, base: str = "postgres", user: str = "postgres") -> str:
        words = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.cluster.folder, "-U", user, "-d", postgres.conninfo(base)]
        done = subprocess.run(
            [POSTGRES / "psql", *words],
            input=text,
            env={"PGPORT": str(self.cluster.port)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def dump(self, name: str, base: str = "pos", **more: Any) -> None:
        """As `fab backup` does: by the application's role."""
        self.dumps.mkdir(parents=True, exist_ok=True)
        path = self.dumps / f"{name}.dump"
        words = [
            "-h",
            self.cluster.folder,
            "-p",
            self.cluster.port,
            "-U",
            "pos",
            "-Fc",
            f"--file={path}",
            postgres.conninfo(base),
        ]
        subprocess.run([POSTGRES / "pg_dump", *map(str, words)], check=True, capture_output=True, timeout=60)
        ours = "from pg_catalog.pg_tables where schemaname !~ '^(pg_|information_schema)'"
        names = f"set search_path = pg_catalog; select json_agg(format('%I.%I', schemaname, tablename)) {ours}"
        tables = self.say(names, base, "pos")
        counted = "select pg_catalog.count(*) from only"
        rows = {table: int(self.say(f"{counted} {table}", base, "pos")) for table in json.loads(tables or "[]")}
        self.describe(name, rows=rows, database=base, **more)

    def describe(self, name: str, **manifest: Any) -> None:
        path = self.dumps / f"{name}.dump"
        manifest = {
            "name": name, "kind": "backup", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "taken_at": f"{datetime.strptime(name[:15], '%Y%m%d-%H%M%S').isoformat()}+00:00", **manifest}  # fmt: skip
        (self.dumps / f"{name}.json").write_text(json.dumps(manifest))

    def note_facts(self) -> None:
        """As the timer does that sends them away."""
        path = self.folder / "recovered/var/lib/fab-releases/offsite/pos/postgresql.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(postgres.superuser(description.QUERY))

    def lose(self) -> None:
        """All that provisioning has not made is gone; what it makes is there."""
        drop = "select format('drop database %I with (force)', datname) from pg_database where oid >= 16384 \\gexec\n"
        for kind in ("drop owned by", "drop role"):
            drop += f"select format('{kind} %I', rolname) from pg_roles where oid >= 16384 \\gexec\n"
        self.say(drop)
        self.provision()

    def provision(self) -> None:
        self.say("create role pos login createdb password 'x'")
        self.say("create database pos owner pos template template0")
        self.say("revoke connect on database pos from public")

    def recover(self, **more: Any) -> None:
        given = {
            "dumps": DUMPS,
            "facts_of": "pos",
            "account": ACCOUNT,
            "owner": "pos",
            "rename": False,
            "extensions": (),
        }
        roles.restore(SITE, "pos", passwords=not more.get("rename"))
        database.restore(SITE, **{**given, **more})

    def nobody_became_more(self) -> None:
        assert self.say("select string_agg(rolname, ',') from pg_roles where rolsuper") == "postgres"
        assert self.say("select count(*) from pg_roles where rolname ~ 'fab_recover'") == "0"
        assert not self.marker.exists(), f"account postgres ran code of the application: {self.marker.read_text()}"


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="recover-pg-"))
    try:
        with started(folder) as made:
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def place(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="recover-"))
    folder.chmod(0o755)
    (folder / "recovered").mkdir(mode=0o700)
    marker = own_cluster.folder / "marker"
    monkeypatch.setattr(fetched, "STATE", str(folder))
    monkeypatch.setattr(postgres, "WHERE", {"PGHOST": str(own_cluster.folder), "PGPORT": str(own_cluster.port)})
    made = Place(own_cluster, folder, marker)
    made.lose()
    yield made
    with suppress(FileNotFoundError):
        marker.unlink()
    shutil.rmtree(folder)


HOSTILE = """
create function public.more() returns boolean language plpgsql as $f$
begin
  begin reset role; exception when others then null; end;
  begin set session authorization default; exception when others then null; end;
  begin execute 'alter role pos superuser'; exception when others then null; end;
  begin execute $c$copy (select 1) to program 'echo code >>MARKER'$c$; exception when others then null; end;
  return true;
end $f$;
create function public.number(integer) returns integer immutable language plpgsql as $f$
begin perform public.more(); return $1; end $f$;
create table public.sale (id integer primary key check (public.more()), twice integer
  generated always as (public.number(id)) stored);
"""
MORE = """
create index on public.sale (public.number(id));
create function public.fire() returns trigger language plpgsql as $f$ begin perform public.more(); return new; end $f$;
create trigger fire before insert or update on public.sale for each row execute function public.fire();
insert into public.sale select generate_series(1, 5);
create materialized view public.seen as select public.number(id) from public.sale;
"""


def test_code_in_a_dump_runs_as_the_role_that_owns_the_data(place: Place) -> None:
    """CHECKs, generated columns, index functions, triggers and materialized views all run while it is restored."""
    place.say(HOSTILE.replace("MARKER", str(place.marker)) + MORE, "pos", "pos")
    place.nobody_became_more()
    place.dump("20261120-010000")
    place.note_facts()
    place.lose()
    place.recover()
    place.nobody_became_more()
    assert place.say("select count(*), sum(twice) from public.sale", "pos") == "5|15"
    assert place.say("select count(*) from public.seen", "pos") == "5"
    assert place.say("select pg_get_userbyid(datdba) from pg_database where datname = 'pos'") == "pos"
    assert json.loads((place.folder / "pos-not-restored.json").read_text())["objects"] == []


SHADOWS = """
create schema evil;
create function evil.always(name, name) returns boolean language plpgsql as
  $f$ begin perform public.more(); return $1::text = $2::text; end $f$;
create operator evil.= (function = evil.always, leftarg = name, rightarg = name);
create operator public.= (function = evil.always, leftarg = name, rightarg = name);
create function evil.always(name, text) returns boolean language plpgsql as
  $f$ begin perform public.more(); return true; end $f$;
create operator evil.~ (function = evil.always, leftarg = name, rightarg = text);
create operator public.!~ (function = evil.always, leftarg = name, rightarg = text);
create function evil.counted(bigint, anyelement) returns bigint language plpgsql as
  $f$ begin perform public.more(); return 5; end $f$;
create aggregate evil.count(anyelement) (sfunc = evil.counted, stype = bigint, initcond = 0);
create function evil.format(text, name) returns text language plpgsql as
  $f$ begin perform public.more(); return 'public.sale'; end $f$;
create function evil.format(text, name, name) returns text language plpgsql as
  $f$ begin perform public.more(); return 'public.sale'; end $f$;
alter database pos set search_path = evil, public, pg_catalog;
alter role pos set search_path = evil, public, pg_catalog;
"""


def test_operators_and_functions_of_an_application_are_never_met(place: Place) -> None:
    """Also by whoever looks whether the database is empty, before anything is recovered."""
    place.say(HOSTILE.replace("MARKER", str(place.marker)) + SHADOWS, "pos", "pos")
    place.say("insert into public.sale (id) values (1), (2)", "pos", "pos")
    place.dump("20261120-010000")
    place.note_facts()
    with pytest.raises(Refused, match="not empty"):
        database.is_free(SITE, "pos")
    place.lose()
    place.recover()
    (place.folder / "pos-recovered").unlink()
    with pytest.raises(Refused, match="not empty"):
        database.is_free(SITE, "pos")
    place.nobody_became_more()
    settings = "select setconfig[1] from pg_db_role_setting order by 1"
    assert place.say(settings).splitlines() == ["search_path=evil, public, pg_catalog"] * 2


NAMES = [
    "a\nALTER ROLE pos SUPERUSER;--",
    "b\n\\! touch MARKER\n",
    "c'; alter role pos superuser; --",
    'd"$(e)"',
    "host=f",
]


def test_names_and_settings_of_any_characters_come_back_as_they_were(place: Place) -> None:
    """In settings, roles, comments and the name of the database; none of them becomes a statement or a command."""
    texts = [name.replace("MARKER", str(place.marker)) for name in NAMES]
    base = texts[1]
    for number, text in enumerate(texts):
        literal, name = text.replace("'", "''"), text.replace('"', '""')
        place.say(f"alter role pos set \"app.s{number}\" = '{literal}'")
        place.say(f"alter database pos set \"app.d{number}\" = '{literal}'")
        place.say(f"create role \"{name}\" login password 'p{number}'; comment on role \"{name}\" is '{literal}';")
        place.say(f'grant pos to "{name}"; alter role "{name}" set search_path = "{name}", public')
        place.say(f"comment on database pos is '{literal}'")
        place.say(f'grant connect on database pos to "{name}" with grant option')
        place.say(f'create table "{name}" as select 1 as one', "pos", "pos")
    described = """
        select a.rolname, a.rolpassword, rolconfig, shobj_description(a.oid, 'pg_authid') from pg_authid a
            join pg_roles r on r.oid = a.oid where a.oid >= 16384 and a.rolname <> 'pos' order by 1;
        select rolconfig from pg_roles where rolname = 'pos';
        select r.rolname, u.rolname, admin_option from pg_auth_members join pg_roles r on r.oid = roleid
            join pg_roles u on u.oid = member where u.oid >= 16384 order by 1, 2;
        select datname, pg_get_userbyid(datdba), shobj_description(d.oid, 'pg_database'), setconfig,
            (select string_agg(one::text, ' ' order by one::text) from unnest(datacl) one)
            from pg_database d join pg_db_role_setting on setdatabase = d.oid"""
    place.say(f'alter database pos rename to "{base}"')
    before = place.say(described)
    place.dump("20261120-010000", base)
    place.note_facts()
    place.lose()
    place.recover()
    place.nobody_became_more()
    assert place.say(described) == before
    tables = "select count(*) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    assert place.say(tables, base) == "5"
    assert json.loads((place.folder / "pos-not-restored.json").read_text())["roles"] == []


def test_passwords_reach_neither_the_log_nor_the_process_list(place: Place) -> None:
    place.say("create role reporting login password 'monthly'; create role \"a b\" in role reporting")
    digest = place.say("select rolpassword from pg_authid where rolname = 'reporting'")
    place.say("create table t as select 1 as one", "pos", "pos")
    place.dump("20261120-010000")
    place.note_facts()
    place.lose()
    place.say("alter system set log_statement = 'all'; select pg_reload_conf()")
    try:
        with process_list() as seen:
            place.recover()
    finally:
        place.say("alter system reset all; select pg_reload_conf()")
    assert place.say("select rolpassword from pg_authid where rolname = 'reporting'") == digest
    assert digest not in (place.cluster.folder / "log").read_text()
    assert "create role" not in (place.cluster.folder / "log").read_text()
    assert not [line for line in seen if digest in line or "PGPASSWORD" in line]


def test_objects_of_others_are_whose_they_may_be_and_named_where_not(place: Place) -> None:
    """The owner is a member of one role and not of the other; nobody is made a member for it."""
    place.say("create role near; create role far; grant near to pos; grant pg_read_all_data to pos")
    place.say("create table ours as select 1 as one; revoke select on ours from pos", "pos", "pos")
    place.say("grant create on schema public to near; revoke create on schema public from near", "pos")
    for role in ("near", "far"):
        place.say(
            f"create table {role} as select generate_series(1, 3) as one; alter table {role} owner to {role}", "pos"
        )
    place.say("create publication everything for all tables", "pos")
    place.dump("20261120-010000", owners=["pos", "near", "far"])
    place.note_facts()
    place.lose()
    place.recover()
    owners = "select tablename, tableowner from pg_tables where schemaname = 'public' order by 1"
    assert place.say(owners, "pos").splitlines() == ["far|pos", "near|near", "ours|pos"]
    assert place.say("select has_schema_privilege('near', 'public', 'create')", "pos") == "f"
    assert place.say("select pg_has_role('pos', 'far', 'member')") == "f"
    named = json.loads((place.folder / "pos-not-restored.json").read_text())["objects"]
    assert named == ["PUBLICATION - everything postgres", "TABLE public far far"]
    assert "pos=r" not in place.say("select relacl from pg_class where relname = 'ours'", "pos")


def test_a_database_of_a_superuser_is_recovered_as_the_application(place: Place) -> None:
    place.say("alter database pos owner to postgres; grant connect on database pos to pos")
    place.say("create table sale as select generate_series(1, 4) as one; grant select on sale to pos", "pos")
    place.dump("20261120-010000")
    place.note_facts()
    place.lose()
    place.recover()
    assert place.say("select tableowner from pg_tables where tablename = 'sale'", "pos") == "pos"
    assert place.say("select pg_get_userbyid(datdba) from pg_database where datname = 'pos'") == "pos"
    place.nobody_became_more()


def test_another_stage_gets_it_under_its_own_name_and_role(place: Place) -> None:
    place.say("create table sale as select generate_series(1, 4) as one", "pos", "pos")
    place.say("create role reporting login; grant select on sale to reporting", "pos")
    place.dump("20261120-010000")
    place.note_facts()
    place.lose()
    place.say("create role trial login createdb")
    place.recover(owner="trial", rename=True)
    assert place.say("select tableowner from pg_tables where tablename = 'sale'", "trial") == "trial"
    assert place.say("select has_table_privilege('reporting', 'sale', 'select')", "trial") == "t"
    assert place.say("select pg_get_userbyid(datdba) from pg_database where datname = 'trial'") == "trial"
    assert place.say("select rolpassword is null from pg_authid where rolname = 'reporting'") == "t"


def test_an_extension_that_only_postgres_may_make_is_made_while_nothing_else_is_there(place: Place) -> None:
    place.say("create schema kept; alter schema kept owner to pos; create extension lo schema kept", "pos")
    place.say("create extension dblink schema kept", "pos")
    place.say("create table sale as select generate_series(1, 4) as one", "pos", "pos")
    place.dump("20261120-010000")
    place.note_facts()
    place.lose()
    place.recover(extensions=("dblink", "absent"))
    asked = "select extname from pg_extension where extnamespace = 'kept'::regnamespace order by 1"
    assert place.say(asked, "pos").splitlines() == ["dblink", "lo"], "the one that may be made by owners is as well"
    place.lose()
    place.recover()
    assert place.say(asked, "pos").splitlines() == ["lo"]
    named = json.loads((place.folder / "pos-not-restored.json").read_text())["objects"]
    assert "EXTENSION - dblink " in named


def test_other_rows_than_the_manifest_says_are_refused(place: Place) -> None:
    place.say("create table sale as select generate_series(1, 4) as one", "pos", "pos")
    place.dump("20261120-010000")
    place.describe("20261120-010000", database="pos", rows={"public.sale": 5})
    place.lose()
    with pytest.raises(Refused, match="other rows"):
        place.recover()
    assert place.say("select count(*) from pg_roles where rolname ~ 'fab_recover'") == "0"
    with pytest.raises(Refused, match="other rows"):  # what is left of it is known, and begun anew
        place.recover()
    (place.folder / "pos-recovered").unlink()
    with pytest.raises(Refused, match="not empty"):
        place.recover()
    path = place.dumps / "20261120-010000.dump"
    place.lose()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Refused, match="SHA-256"):
        place.recover()
    assert not list(place.folder.glob("dump.*"))


def test_the_dump_with_the_highest_sequence_is_taken_whatever_clocks_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(telling, "warn", said.append)
    soon = datetime.now(UTC) + timedelta(days=300)
    names = {"20200101-000000": None, f"{soon:%Y%m%d-%H%M%S}": None, "20261101-000000": 7, "20261031-000000": 8}
    for name, sequence in names.items():
        place.dumps.mkdir(parents=True, exist_ok=True)
        (place.dumps / f"{name}.dump").write_bytes(b"")
        place.describe(name, **({} if sequence is None else {"sequence": sequence}))
    (place.dumps / "20270101-000000.json").write_text("{")
    (place.dumps / "20270102-000000.json").symlink_to("/etc/shadow")
    assert fetched.newest(DUMPS).name == "20261031-000000"
    found = " ".join(said)
    assert "20261101-000000 was taken before 20261031-000000, and is dated after it" in found
    assert f"{soon:%Y%m%d-%H%M%S} is dated in the future" in found
    for name in ("20261101-000000", "20261031-000000"):
        (place.dumps / f"{name}.json").unlink()
    assert fetched.newest(DUMPS).name == "20200101-000000", "of those without one, a moment that has not come is none"
    assert found.count("no manifest") == 2


def test_thousands_of_tables_are_counted_with_few_locks(place: Place) -> None:
    place.say("alter system set max_locks_per_transaction = 10; alter system set max_connections = 25")
    try:
        place.cluster.restart()
        make = "create table t% (id integer primary key, a integer unique)"
        place.say(
            f"do $$ begin for i in 1..1500 loop execute replace('{make}', '%', i::text); commit; end loop; end $$",
            "pos",
            "pos",
        )
        with postgres.login("pos", ACCOUNT) as login:
            found = json.loads(postgres.asked(login, "pos", database.content.statements.ROWS, "public"))
        assert len(found) == 1500
        assert set(found.values()) == {0}
    finally:
        place.say("alter system reset all")
        place.lose()
        place.cluster.restart()


def test_what_the_archive_had_comes_after_all_dumps(place: Place) -> None:
    place.dumps.mkdir(parents=True)
    for name, more in {"20261102-000000": {"sequence": 41}, "20261101-000000": {}}.items():
        (place.dumps / f"{name}.dump").write_bytes(b"")
        place.describe(name, **more)
    (place.folder / "pos-recovered-moment").write_text("2026-11-01T00:00:00+00:00\n")
    database.count_in(SITE, DUMPS, "pos")
    assert fetched.newest(DUMPS).name == "20261101-000000"
    (place.folder / "pos-recovered-moment").write_text("2026-11-01T00:00:09+00:00\n")
    with pytest.raises(Refused, match="is not there"):
        database.count_in(SITE, DUMPS, "pos")
    database.look(SITE, DUMPS, "pos")
    assert not (place.folder / "pos-recovered-moment").exists(), "a moment that was never put in place counts as there"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("search_path=a, public", ["a", "public"]),
        ('search_path="$user", "a,""b", c', ["$user", 'a,"b', "c"]),
        ('search_path=""', [""]),
        ("app.list=a, b", ["a, b"]),
        ("app.text=a=b", ["a=b"]),
    ],
)
def test_a_list_among_settings_is_said_name_by_name(entry: str, words: list[str]) -> None:
    assert split([entry]) == [{"name": entry.partition("=")[0], "words": words}]


def test_every_session_of_a_superuser_searches_pg_catalog_alone() -> None:
    """Where a program of ours still calls psql as postgres; in tasks/server only postgres.py starts it."""
    found = []
    for path in Path(TEMPLATES).rglob("*"):
        text = path.read_text() if path.is_file() and path.suffix in (".sh", ".py", ".j2") else ""
        found += [(path.name, line) for line in text.splitlines() if "-u postgres" in line and "psql" in line]
    assert found
    server = Path(TEMPLATES).parent / "tasks" / "server"
    starts = [str(path.relative_to(server)) for path in server.rglob("*.py") if '"psql"' in path.read_text()]
    assert starts == ["postgres.py"]
    assert [one for one in found if "search_path=pg_catalog" not in one[1]] == []
    assert not [path.name for path in Path(TEMPLATES, "provision").glob("recover*") if "gexec" in path.read_text()]


def test_code_that_names_no_schema_and_rows_that_need_others_are_restored(place: Place) -> None:
    """pg_restore finds no names by itself, and loads tables in its own order."""
    place.say("create schema own; alter schema own owner to pos; alter role pos set search_path = own, public", "pos")
    place.say(
        """
        create table rate (id integer primary key, percent integer);
        create function percent(integer) returns integer immutable language sql as
            $f$ select percent from rate where id = $1 $f$;
        create function is_known(integer) returns boolean language plpgsql as
            $f$ begin return exists (select from rate where id = $1); end $f$;
        create table article (id integer primary key, rate integer references rate check (is_known(rate)));
        create index on article (percent(rate));
        create materialized view shown as select id, percent(rate) from article;
        insert into rate values (1, 7), (2, 19);
        insert into article values (1, 1), (2, 2), (3, 1);
        refresh materialized view shown""",
        "pos",
        "pos",
    )
    place.dump("20261120-010000")
    place.note_facts()
    place.lose()
    place.recover()
    place.nobody_became_more()
    assert place.say("select count(*), sum(percent) from own.shown", "pos") == "3|33"
    assert place.say("select count(*) from pg_indexes where tablename = 'article'", "pos") == "2"
    assert place.say("select count(*) from pg_constraint where contype = 'f'", "pos") == "1"
    assert json.loads((place.folder / "pos-not-restored.json").read_text())["objects"] == []
