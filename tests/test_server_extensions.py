"""Extensions that only a superuser may create are made by provisioning, and restores begin with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.server import extensions, postgres, telling
from tasks.server.refused import Refused
from tasks.server.values.site import Site
from tests.application import Cluster, Release, database_name, items

HERE = Site("/srv/pos", "pos", "production", {}, "systemd")
WANTED = ("earthdistance", "pg_stat_statements")
"""The first needs another one, the second has a view."""

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes postgres")


@pytest.fixture(autouse=True)
def reached(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "WHERE", {"PGHOST": str(cluster.folder), "PGPORT": str(cluster.port)})


def there(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(telling, "found", lambda _, text: told.append(text))
    extensions.look(HERE, "extensions", name, WANTED)
    return told[0].splitlines()


def test_a_restore_has_the_extensions_that_provisioning_made(
    on_postgres: Release, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database_name(on_postgres)
    on_postgres.ok("migrate")
    assert there(name, monkeypatch) == []
    extensions.make(HERE, name, WANTED)
    extensions.make(HERE, name, WANTED)
    assert there(name, monkeypatch) == [f"{one} in the {place}" for place in ("database", "template") for one in WANTED]
    cluster.admin("CREATE VIEW slow AS SELECT query FROM pg_stat_statements; ALTER VIEW slow OWNER TO app", name)
    on_postgres.sql("CREATE TABLE branch (at earth); INSERT INTO branch VALUES (ll_to_earth(48, 11));"
                    "CREATE INDEX nearby ON branch USING gist (at)")  # fmt: skip
    taken = on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    assert taken["left_out"] == []
    on_postgres.ok("drill", directory=str(tmp_path), name="point")
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point")["left_out"] == []
    assert on_postgres.sql("SELECT count(*) FROM branch, pg_extension WHERE extname = 'earthdistance'") == ["1"]
    cluster.admin(f"DROP DATABASE {name} WITH (FORCE)")
    assert on_postgres.ok("restore", directory=str(tmp_path), name="point")["left_out"] == []
    assert items(on_postgres) == []


def test_a_script_of_an_extension_meets_no_function_of_the_applications(
    on_postgres: Release, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs as a superuser, and would call one in the schema that it is put in."""
    name = database_name(on_postgres)
    cluster.admin("GRANT CREATE ON SCHEMA public TO app", name)
    on_postgres.sql("CREATE FUNCTION trap(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(Refused, match=f"not in {name}: its schema public has function trap"):
        extensions.make(HERE, name, WANTED)
    assert there(name, monkeypatch) == [f"{one} in the template" for one in WANTED]
    on_postgres.sql("DROP FUNCTION trap")
    extensions.make(HERE, name, WANTED)


def test_a_template_that_somebody_else_made_is_not_begun_with(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(on_postgres)
    on_postgres.ok("migrate")
    cluster.admin(f"CREATE DATABASE {name}_template OWNER app TEMPLATE template0")
    cluster.admin(f"ALTER DATABASE {name}_template IS_TEMPLATE true")
    cluster.admin("CREATE TABLE planted ()", f"{name}_template")
    with pytest.raises(Refused, match="belongs to app"):
        extensions.make(HERE, name, WANTED)
    on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    on_postgres.ok("restore", directory=str(tmp_path), name="point")
    assert cluster.admin("SELECT to_regclass('public.planted') IS NULL", name) == "t"


def test_what_needs_an_extension_that_is_not_there_is_refused_with_the_line_that_makes_it(
    on_postgres: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(on_postgres)
    on_postgres.ok("migrate")
    cluster.admin("CREATE EXTENSION cube; CREATE EXTENSION earthdistance", name)
    on_postgres.sql("CREATE TABLE branch (at earth)")
    taken = on_postgres.ok("restore-point", directory=str(tmp_path), name="point")
    assert "extension earthdistance" in [one["what"] for one in taken["left_out"]]
    said = on_postgres.refused("restore", directory=str(tmp_path), name="point")
    assert "public.branch" in said["error"]
    assert '[provision] extensions = ["earthdistance"]' in said["hint"]
    assert cluster.names(name) == [name]
