"""A role and a database are made of values: no name and no password becomes a statement, or is seen."""

from __future__ import annotations

import os

import pytest

from tasks.server import postgres
from tasks.server.make import database
from tasks.server.values.secret import Secret
from tasks.server.values.site import Site
from tests.application import Cluster
from tests.process_list import process_list

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes postgres")
SITE = Site("/srv/pos", "pos", "production", {}, "systemd")
ROLE = "a-b \"c'd"
NAMED = f"rolname = '{ROLE}'".replace("'d", "''d")


@pytest.fixture(autouse=True)
def reached(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "WHERE", {"PGHOST": str(cluster.folder), "PGPORT": str(cluster.port)})


def asked(text: str) -> str:
    return postgres.superuser(text + ";\n").strip()


PASSWORDS = ["plain", "'; alter role app superuser; --", "a\n\\! touch x\n", "\\'x", 'ü:"%$(id)']


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_any_characters_lets_in_and_is_never_seen(cluster: Cluster, password: str) -> None:
    with process_list() as seen:
        database.application_role(SITE, ROLE, Secret(password))
    assert postgres.lets_in(ROLE, password)
    assert not postgres.lets_in(ROLE, f"{password}x")
    assert asked("select rolname from pg_roles where rolsuper") == "postgres"
    rights = "select rolcanlogin, rolcreatedb, rolcreaterole, rolreplication from pg_roles where "
    assert asked(rights + NAMED) == "t|t|f|f"
    assert password not in (cluster.folder / "log").read_text()
    assert not [line for line in seen if password in line and password != "plain"]
    kept = f"select rolpassword from pg_authid where {NAMED}"
    before = asked(kept)
    database.application_role(SITE, ROLE, Secret(password))
    database.application_role(SITE, ROLE, Secret(""))
    assert asked(kept) == before, "what compares it (pgBouncer) would not know it"


def test_a_database_is_made_once_and_only_its_owner_may_connect() -> None:
    database.application_role(SITE, ROLE, Secret("x"))
    name = "shop \"x'; --"
    try:
        for _ in range(2):
            database.database(SITE, name, ROLE)
        found = postgres.superuser(
            "select pg_get_userbyid(datdba), pg_encoding_to_char(encoding), "
            "has_database_privilege('app', oid, 'connect') from pg_database where datname = :'name';\n",
            name=name,
        )
        assert found.strip() == f"{ROLE}|UTF8|f"
    finally:
        postgres.superuser('drop database if exists :"name";\n', name=name)


def test_copies_and_who_watches_them_get_no_more_than_they_need() -> None:
    database.replicator(SITE, "copies", Secret("y"))
    database.watcher(SITE, "looks")
    rights = "select rolname, rolcanlogin, rolreplication, rolsuper, rolcreatedb from pg_roles where rolname in "
    assert asked(f"{rights} ('copies', 'looks') order by 1").split() == ["copies|t|t|f|f", "looks|t|f|f|f"]
    assert postgres.lets_in("copies", "y")
    asked("drop role copies; drop role looks")
