"""What is in a backup is restored as far as the restoring role may; what it may not is named when it is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.application import Cluster, Release, database_name, postgresql

ROLES = ("readers", "mon", "giver", "taker", "second_worker")
NOT_OURS: dict[str, tuple[str, str, str]] = {
    "the schema public": (
        "ALTER SCHEMA public OWNER TO postgres; GRANT ALL ON SCHEMA public TO app",
        "schema public: its owner postgres",
        "ALTER SCHEMA public OWNER TO postgres;",
    ),
    "default privileges of postgres": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT SELECT ON TABLES TO readers",
        "default privileges for tables of postgres in schema public",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public GRANT SELECT ON TABLES",
    ),
    "an event trigger": (
        "CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN END$$;"
        "ALTER FUNCTION note_ddl OWNER TO app;"
        "CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION note_ddl()",
        "event trigger noted",
        "CREATE EVENT TRIGGER noted ON ddl_command_end",
    ),
    "a publication of all tables": (
        "CREATE PUBLICATION everything FOR ALL TABLES",
        "publication everything",
        "CREATE PUBLICATION everything FOR ALL TABLES",
    ),
    "a right on what is PostgreSQL's own": (
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO mon",
        "rights on function pg_catalog.pg_ls_waldir(OUT name text, OUT size bigint,"
        " OUT modification timestamp with time zone)",
        "GRANT ALL ON FUNCTION pg_catalog.pg_ls_waldir(",
    ),
    "a function of PostgreSQL's that was closed": (
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC",
        "rights on function pg_catalog.pg_sleep(double precision)",
        "REVOKE ALL ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC;",
    ),
    "an extension and a view of it": (
        "CREATE EXTENSION pg_stat_statements; CREATE VIEW slow AS SELECT query FROM pg_stat_statements;"
        "ALTER VIEW slow OWNER TO app",
        "extension pg_stat_statements",
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements",
    ),
    "a table of postgres": (
        "CREATE TABLE private AS SELECT 1; GRANT SELECT ON private TO app",
        "table public.private: its owner postgres",
        "ALTER TABLE public.private OWNER TO postgres;",
    ),
    "a type of postgres": ("CREATE TYPE mood AS ENUM ('good')", "type public.mood: its owner postgres", "ALTER TYPE"),
    "a table of somebody we are not": (
        "GRANT CREATE ON SCHEMA public TO second_worker; SET ROLE second_worker; CREATE TABLE queue (id int);"
        "GRANT SELECT ON queue TO app",
        "table public.queue: its owner second_worker",
        "ALTER TABLE public.queue OWNER TO second_worker;",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def roles(cluster: Cluster) -> None:
    cluster.admin("; ".join(f"CREATE ROLE {name}" for name in ROLES) + "; GRANT app TO second_worker")


@pytest.fixture
def shop(on_postgres: Release) -> Release:
    on_postgres.ok("migrate")
    on_postgres.sql("INSERT INTO shop_item (name) VALUES ('kept')")
    return on_postgres


def test_what_only_postgres_may_make_is_named_at_the_backup_and_all_else_is_restored(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """And its statements make it, when postgres says them afterwards."""
    name = database_name(shop)
    for made, _, _ in NOT_OURS.values():
        cluster.admin(made, name)
    taken = shop.ok("restore-point", directory=str(tmp_path), name="point")
    assert json.loads((tmp_path / "point.json").read_text())["left_out"] == taken["left_out"]
    statements = {one["what"]: one["statement"] for one in taken["left_out"] if not one["follows"]}
    assert sorted(statements) == sorted(what for _, what, _ in NOT_OURS.values())
    for _, what, statement in NOT_OURS.values():
        assert statements[what].startswith(statement)
    for verb, more in (("restore", {"plan_only": True}), ("drill", {}), ("restore", {})):
        done = shop.ok(verb, directory=str(tmp_path), name="point", **more)
        assert done["left_out"] == taken["left_out"], verb
    assert [what for what in statements if not any(what in remark for remark in done["remarks"])] == []
    assert shop.sql("SELECT name FROM shop_item") == ["kept"]
    cluster.admin("\n".join(one["statement"] for one in taken["left_out"]), name)
    assert shop.ok("restore-point", directory=str(tmp_path), name="again")["left_out"] == taken["left_out"]


def test_a_subscription_is_named_though_no_dump_has_it(shop: Release, cluster: Cluster, tmp_path: Path) -> None:
    name = database_name(shop)
    cluster.admin("CREATE SUBSCRIPTION of_hq CONNECTION 'host=x password=geheim1' PUBLICATION p"
                  " WITH (connect = off, slot_name = NONE)", name)  # fmt: skip
    taken = shop.ok("restore-point", directory=str(tmp_path), name="point")
    assert [one["what"] for one in taken["left_out"]] == ["subscription of_hq"]
    assert "geheim1" not in json.dumps(taken)
    cluster.admin("DROP SUBSCRIPTION of_hq", name)
    assert shop.ok("restore", directory=str(tmp_path), name="point")["left_out"] == taken["left_out"]


def test_a_right_that_somebody_else_gave_is_there_again(shop: Release, cluster: Cluster, tmp_path: Path) -> None:
    """By us, where we may not become who gave it; by him, where we may."""
    name = database_name(shop)
    cluster.admin("GRANT SELECT ON shop_item TO giver WITH GRANT OPTION; SET ROLE giver;"
                  "GRANT SELECT ON shop_item TO taker", name)  # fmt: skip
    taken = shop.ok("restore-point", directory=str(tmp_path), name="point")
    assert [one["what"] for one in taken["left_out"]] == ["rights on table public.shop_item"]
    shop.ok("restore", directory=str(tmp_path), name="point")
    assert cluster.admin("SELECT has_table_privilege('taker', 'shop_item', 'SELECT')", name) == "t"
    cluster.admin("GRANT giver TO app")
    try:
        assert shop.ok("restore", directory=str(tmp_path), name="point")["left_out"] == []
        assert "taker=r/giver" in cluster.admin("SELECT relacl FROM pg_class WHERE relname = 'shop_item'", name)
    finally:
        cluster.admin("REVOKE giver FROM app")


def test_a_table_goes_to_its_owner_also_where_he_may_not_create_one(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(shop)
    cluster.admin("GRANT readers TO app")
    try:
        cluster.admin("CREATE SCHEMA books AUTHORIZATION app; CREATE TABLE books.page ();"
                      "ALTER TABLE books.page OWNER TO readers", name)  # fmt: skip
        asked = (
            "SELECT tableowner, has_schema_privilege('readers', 'books', 'CREATE')"
            " FROM pg_tables WHERE tablename = 'page'"
        )
        assert shop.ok("restore-point", directory=str(tmp_path), name="point")["left_out"] == []
        assert shop.ok("restore", directory=str(tmp_path), name="point")["left_out"] == []
        assert cluster.admin(asked, name) == "readers|f"
    finally:
        cluster.admin("REVOKE readers FROM app")


UNQUALIFIED = """
    CREATE TABLE bounds (top int); INSERT INTO bounds VALUES (5);
    CREATE FUNCTION top(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT max(top) + $1 FROM bounds';
    CREATE FUNCTION fits(int) RETURNS bool STABLE LANGUAGE sql AS 'SELECT $1 < max(top) FROM bounds';
    CREATE DOMAIN size AS int CONSTRAINT fits CHECK (fits(VALUE));
    CREATE TABLE a_first (n int CONSTRAINT fits CHECK (fits(n)), s size, t int GENERATED ALWAYS AS (top(n)) STORED);
    COMMENT ON CONSTRAINT fits ON a_first IS 'not too large';
    CREATE INDEX by_top ON a_first (top(n));
    CREATE TABLE year (n int CHECK (fits(n))) PARTITION BY LIST (n);
    CREATE TABLE year_1 PARTITION OF year FOR VALUES IN (1);
    CREATE TABLE above (n int, CONSTRAINT fits CHECK (fits(n)));
    CREATE TABLE below (n int, CONSTRAINT fits CHECK (fits(n))) INHERITS (above);
    CREATE MATERIALIZED VIEW tops AS SELECT top(n) FROM a_first;
    INSERT INTO a_first VALUES (1, 2); INSERT INTO year VALUES (1); INSERT INTO below VALUES (1);
    REFRESH MATERIALIZED VIEW tops"""
DESCRIBED = """
    SELECT conrelid::regclass, contypid::regtype, conname, conislocal, coninhcount, convalidated,
        pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype = 'c'
    ORDER BY conrelid::regclass::text, 2, 3"""


def test_functions_that_name_no_schema_and_checks_that_read_other_tables_are_restored(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """In indexes, generated columns, materialized views, domains, partitions and inherited tables."""
    name = database_name(shop)
    cluster.admin("GRANT CREATE ON SCHEMA public TO app", name)
    shop.sql(UNQUALIFIED)
    before = cluster.admin(DESCRIBED, name)
    assert shop.ok("restore-point", directory=str(tmp_path), name="point")["left_out"] == []
    assert shop.ok("drill", directory=str(tmp_path), name="point")["left_out"] == []
    shop.sql("TRUNCATE a_first, year, above")
    assert shop.ok("restore", directory=str(tmp_path), name="point")["left_out"] == []
    assert cluster.admin(DESCRIBED, name) == before
    rows = cluster.admin("SELECT a_first.n, s, a_first.t, tops.top FROM a_first, year, ONLY below, tops", name)
    assert rows == "1|2|6|6"
    assert shop.sql("SELECT count(*) FROM pg_indexes WHERE indexname = 'by_top'") == ["1"]


def test_a_check_that_rows_do_not_pass_any_more_holds_for_new_ones(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.admin("GRANT CREATE ON SCHEMA public TO app", database_name(shop))
    shop.sql(UNQUALIFIED)
    shop.sql("UPDATE bounds SET top = 0")
    shop.ok("restore-point", directory=str(tmp_path), name="point")
    named = {one["what"] for one in shop.ok("restore", directory=str(tmp_path), name="point")["left_out"]}
    assert "the validation of check fits of public.a_first" in named
    assert shop.sql("SELECT count(*) FROM a_first WHERE n = 1") == ["1"]
    assert "violates check" in refused(cluster, "INSERT INTO year VALUES (1)", database_name(shop))


def refused(cluster: Cluster, statement: str, database: str) -> str:
    try:
        cluster.admin(statement, database)
    except AssertionError as error:
        return str(error)
    return ""


def test_an_index_of_an_extension_that_names_no_schema_is_restored(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    """As earthdistance, whose functions find their own type by search_path alone."""
    cluster.admin("CREATE EXTENSION cube; GRANT CREATE ON SCHEMA public TO app", database_name(shop))
    shop.sql("CREATE DOMAIN spot AS cube; CREATE FUNCTION at(float8) RETURNS spot IMMUTABLE LANGUAGE sql"
             " AS 'SELECT cube($1)::spot'; CREATE TABLE branch (lat float8); INSERT INTO branch VALUES (48);"
             "CREATE INDEX nearby ON branch USING gist (at(lat))")  # fmt: skip
    taken = shop.ok("restore-point", directory=str(tmp_path), name="point")
    assert shop.ok("restore", directory=str(tmp_path), name="point")["left_out"] == taken["left_out"] == []
    assert shop.sql("SELECT count(*) FROM pg_indexes WHERE indexname = 'nearby'") == ["1"]


def test_large_objects_come_back_and_those_that_nobody_lets_us_read_are_named(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    name = database_name(shop)
    shop.sql("SELECT lo_from_bytea(4711, 'invoice')")
    shop.ok("restore-point", directory=str(tmp_path), name="point")
    shop.ok("restore", directory=str(tmp_path), name="point")
    assert shop.sql("SELECT convert_from(lo_get(4711), 'UTF8')") == ["invoice"]
    cluster.admin("SET ROLE second_worker; SELECT lo_from_bytea(4712, 'theirs')", name)
    said = shop.refused("restore-point", directory=str(tmp_path), name="more")
    assert "1 of second_worker" in said["error"]
    assert "ALTER LARGE OBJECT %s OWNER TO" in said["hint"]


def test_what_cannot_be_tried_is_said_with_the_right_that_it_needs(
    shop: Release, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.admin("DO $$ BEGIN CREATE ROLE small LOGIN PASSWORD 'canary-Pa55/word%2F'; END $$;"
                  "GRANT pg_read_all_data TO small")  # fmt: skip
    shop.environment["DATABASE"] = postgresql(cluster, database_name(shop), user="small")
    taken = shop.ok("restore-point", directory=str(tmp_path), name="point")
    assert taken["untried"] == 'as postgres: ALTER ROLE "small" CREATEDB;'


def test_the_schema_is_tried_once_and_not_at_each_backup(shop: Release, cluster: Cluster, tmp_path: Path) -> None:
    cluster.admin("CREATE PUBLICATION everything FOR ALL TABLES", database_name(shop))
    first = shop.run("restore-point", directory=str(tmp_path / "database"), name="first")
    cluster.admin(f"CREATE DATABASE {database_name(shop)}_trial_{'1' * 20} OWNER app")  # of one that was killed
    second = shop.run("restore-point", directory=str(tmp_path / "restore-points"), name="second")
    assert second.said["left_out"] == first.said["left_out"] != []
    assert cluster.names(database_name(shop)) == [database_name(shop)]
    assert "must be superuser" in first.err
    assert "must be superuser" not in second.err
