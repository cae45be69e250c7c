"""Whatever is in a database and whoever made it: a backup names what a restore is without, and all else is restored.

The databases are made of random statements by several roles; one that PostgreSQL refuses is left out of them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from tests.application import CANARY, POSTGRES, Cluster, Release, made_in, postgresql

KEEPER, MEMBER, OUTSIDER, GREAT = "keeper", "clerk", "Other; Role", "postgres"
"""Who restores; whom he is a member of; whom he is not; a superuser."""
ROLES = (KEEPER, KEEPER, KEEPER, MEMBER, OUTSIDER, GREAT)
SCHEMAS = ("public", "public", "books", 'The "Shelf"; x')
STATEMENTS = (
    "CREATE TABLE {s}.{n} (id serial PRIMARY KEY, v text DEFAULT 'a;b', amount numeric(9, 2)"
    " CONSTRAINT {n} CHECK (amount > 0));"
    "INSERT INTO {s}.{n} (v, amount) SELECT 'row {k}', g FROM generate_series(1, {k}) g",
    "CREATE TABLE {s}.{n} (id int GENERATED ALWAYS AS IDENTITY, v varchar(20) NOT NULL UNIQUE, d date DEFAULT now());"
    "INSERT INTO {s}.{n} (v) VALUES ('x'), (E'tab\\t\\\\\\n')",
    "CREATE UNLOGGED TABLE {s}.{n} (id int PRIMARY KEY, v text COLLATE \"C\") WITH (fillfactor = 70);"
    "INSERT INTO {s}.{n} VALUES ({k}, NULL)",
    "CREATE TABLE {s}.{n} (id int, v text) PARTITION BY RANGE (id);"
    "CREATE TABLE {s}.{n2} PARTITION OF {s}.{n} FOR VALUES FROM (0) TO (100);"
    "CREATE INDEX ON {s}.{n} (id); INSERT INTO {s}.{n} VALUES ({k}, 'p')",
    "CREATE TABLE {s}.{n} (LIKE {t} INCLUDING ALL); INSERT INTO {s}.{n} SELECT * FROM {t}",
    "CREATE TABLE {s}.{n} () INHERITS ({t}); INSERT INTO {s}.{n} (v) VALUES ('child')",
    "ALTER TABLE {t} ADD COLUMN {n} int GENERATED ALWAYS AS (id * 2) STORED",
    "ALTER TABLE {t} ADD CONSTRAINT {n} FOREIGN KEY (id) REFERENCES {t2} (id) NOT VALID",
    "ALTER TABLE {t} ADD CONSTRAINT {n} CHECK (id <> 4711) NOT VALID",
    "ALTER TABLE {t} OWNER TO {r2}",
    "ALTER TABLE {t} REPLICA IDENTITY FULL; ALTER TABLE {t} ALTER v SET STATISTICS 50, ALTER v SET STORAGE EXTERNAL",
    "CREATE INDEX {n} ON {t} (lower(v), id DESC) WHERE id > 0; ALTER TABLE {t} CLUSTER ON {n}",
    "CREATE STATISTICS {s}.{n} ON id, v FROM {t}",
    "CREATE VIEW {s}.{n} AS SELECT * FROM {t}; CREATE VIEW {s}.{n2} WITH (security_barrier) AS SELECT * FROM {s}.{n}",
    "CREATE MATERIALIZED VIEW {s}.{n} AS SELECT count(*) AS v, max(id) AS id FROM {t};"
    "CREATE UNIQUE INDEX ON {s}.{n} (v)",
    "CREATE MATERIALIZED VIEW {s}.{n} AS SELECT id, v FROM {t} WITH NO DATA",
    "CREATE RULE {n} AS ON DELETE TO {t} DO INSTEAD NOTHING",
    "CREATE FUNCTION {s}.{n}() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN RETURN NEW; END; $x$;"
    "CREATE TRIGGER {n} BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.{n}();"
    "ALTER TABLE {t} DISABLE TRIGGER {n}",
    "CREATE POLICY {n} ON {t} FOR SELECT TO {r2} USING (id < 10); ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
    "CREATE FUNCTION {s}.{n}(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + count(*)::int FROM bounds';"
    "CREATE TABLE {s}.{n} (id int CHECK ({s}.{n}(id) > 0), v text, g int GENERATED ALWAYS AS ({s}.{n}(id)) STORED);"
    "INSERT INTO {s}.{n} VALUES ({k}, 'checked'); CREATE INDEX ON {s}.{n} ({s}.{n}(id))",
    "CREATE FUNCTION {s}.{n}(a int, OUT b int) LANGUAGE sql STABLE BEGIN ATOMIC SELECT a; SELECT a + 1; END;"
    "COMMENT ON FUNCTION {s}.{n} IS 'it''s; atomic'",
    "CREATE PROCEDURE {s}.{n}(int) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog"
    " AS 'BEGIN COMMIT; END'",
    "CREATE AGGREGATE {s}.{n}(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
    "CREATE TYPE {s}.{n} AS ENUM ('new', 'it''s'); CREATE TABLE {s}.{n2} (id int, v {s}.{n} DEFAULT 'new');"
    "INSERT INTO {s}.{n2} VALUES (1), (2, 'it''s')",
    "CREATE TYPE {s}.{n} AS (a int, b text); CREATE TABLE {s}.{n2} (id int, v {s}.{n}[]);"
    "INSERT INTO {s}.{n2} VALUES (1, ARRAY[(1, 'x')::{s}.{n}])",
    "CREATE TYPE {s}.{n} AS RANGE (SUBTYPE = int)",
    "CREATE DOMAIN {s}.{n} AS int DEFAULT 5 CONSTRAINT {n} CHECK (VALUE > 0); COMMENT ON DOMAIN {s}.{n} IS 'd';"
    "CREATE TABLE {s}.{n2} (id {s}.{n}, v text); INSERT INTO {s}.{n2} VALUES (1)",
    "CREATE FUNCTION {s}.{n}(text) RETURNS bool STABLE LANGUAGE sql AS 'SELECT count(*) > 0 FROM bounds';"
    "CREATE DOMAIN {s}.{n2} AS text CHECK ({s}.{n}(VALUE)); CREATE TABLE {s}.{n} (id int, v {s}.{n2});"
    "INSERT INTO {s}.{n} VALUES (1, 'x')",
    "CREATE FUNCTION {s}.{n}(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 < $2';"
    "CREATE OPERATOR {s}.<<< (LEFTARG = int, RIGHTARG = int, FUNCTION = {s}.{n})",
    "CREATE SEQUENCE {s}.{n} INCREMENT 5; SELECT setval('{s}.{n}', {k})",
    "CREATE COLLATION {s}.{n} FROM \"C\"",
    "CREATE TEXT SEARCH CONFIGURATION {s}.{n} (COPY = simple)",
    "COMMENT ON TABLE {t} IS 'about; it''s'; COMMENT ON COLUMN {t}.id IS 'key'; COMMENT ON SCHEMA {s} IS 'shelf'",
    "GRANT SELECT ON {t} TO {r2} WITH GRANT OPTION; SET ROLE {r2}; GRANT SELECT ON {t} TO {r3}",
    "GRANT SELECT (id), UPDATE (v) ON {t} TO {r2}",
    "GRANT ALL ON ALL TABLES IN SCHEMA {s} TO PUBLIC",
    "REVOKE INSERT, SELECT ON {t} FROM {r}",
    "GRANT USAGE ON SCHEMA {s} TO {r2} WITH GRANT OPTION; REVOKE ALL ON SCHEMA {s} FROM PUBLIC",
    "GRANT CREATE ON SCHEMA {s} TO {r2}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA {s} GRANT SELECT ON TABLES TO {r2}",
    "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {r2} GRANT USAGE ON TYPES TO {r3}",
    "ALTER SCHEMA {s} OWNER TO {r2}",
    "CREATE EXTENSION IF NOT EXISTS citext SCHEMA {s}; CREATE TABLE {s}.{n} (id int, v {s}.citext);"
    "INSERT INTO {s}.{n} VALUES (1, 'X')",
    "CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE INDEX {n} ON {t} USING gin (v gin_trgm_ops)",
    "CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA {s}",
    "CREATE EXTENSION IF NOT EXISTS hstore; REVOKE EXECUTE ON FUNCTION hstore(text, text) FROM PUBLIC",
    "SELECT lo_from_bytea({k}, 'invoice'); COMMENT ON LARGE OBJECT {k} IS 'paid';"
    "GRANT SELECT ON LARGE OBJECT {k} TO {r2}",
    "CREATE PUBLICATION {n} FOR TABLE {t}",
    "CREATE PUBLICATION {n} FOR ALL TABLES",
    "CREATE FUNCTION {s}.{n}() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
    "CREATE EVENT TRIGGER {n} ON ddl_command_end EXECUTE FUNCTION {s}.{n}(); ALTER EVENT TRIGGER {n} DISABLE",
    "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO {r2}",
    "CREATE CAST ({t} AS text) WITH INOUT",
    "ALTER TABLE {t} ALTER COLUMN v DROP DEFAULT; ALTER TABLE {t} RENAME COLUMN v TO {n}",
)  # fmt: skip
Step = tuple[str, int, int, int]
STEP = some.tuples(some.sampled_from(STATEMENTS), *[some.integers(0, 200)] * 3)
# Everything that is somebody's to see, without pg_dump: (name, what it is like). Rights as they work, also the default
# ones; not the owners of multiranges, which PostgreSQL forgets by itself when their ranges are given away.
RIGHTS = """(SELECT string_agg(concat(pg_get_userbyid(grantee), ' ', privilege_type, ' ', is_grantable), ', '
    ORDER BY concat(pg_get_userbyid(grantee), ' ', privilege_type, ' ', is_grantable))
    FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))))"""


def rights(acl: str, kind: str, owner: str) -> str:
    return RIGHTS.format(acl=acl, kind=kind, owner=owner)


OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
OF_GREAT = """NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.deptype = 'e'
    AND d.objid = {id} AND e.extname = 'pg_stat_statements')"""
SEEN = f"""
    SELECT n.nspname, concat('schema ', pg_get_userbyid(nspowner), {rights("nspacl", "n", "nspowner")},
        obj_description(n.oid, 'pg_namespace')) FROM pg_namespace n WHERE {OURS}
    UNION ALL SELECT relname, concat('relation ', n.nspname, relkind, relpersistence, relreplident, relrowsecurity,
        reloptions::text, relispopulated,
        CASE WHEN relkind NOT IN ('i', 'I')
            THEN concat(pg_get_userbyid(relowner), {rights("relacl", "r", "relowner")}) END,
        obj_description(c.oid, 'pg_class'), CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
        CASE WHEN relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) END,
        CASE WHEN relkind = 'S' THEN (SELECT concat(last_value, max_value)
            FROM pg_sequences q WHERE q.schemaname = n.nspname AND q.sequencename = relname) END)
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS} AND relkind <> 't'
        AND {OF_GREAT.format(id="c.oid")}
    UNION ALL SELECT relname, concat('column ', n.nspname, attname, format_type(atttypid, atttypmod), attnotnull,
        attidentity, attgenerated, attstattarget, attstorage,
        (SELECT array_agg(right_of::text ORDER BY right_of::text) FROM unnest(attacl) right_of),
        pg_get_expr(adbin, adrelid),
        col_description(c.oid, attnum)) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
        JOIN pg_namespace n ON n.oid = relnamespace
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE {OURS} AND {OF_GREAT.format(id="c.oid")} AND attnum > 0 AND NOT attisdropped
        AND relkind IN ('r', 'p', 'v', 'm', 'c')
    UNION ALL SELECT conname, concat('constraint ', n.nspname, conrelid::regclass, contypid::regtype, convalidated,
        conislocal, coninhcount, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'))
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace WHERE {OURS}
    UNION ALL SELECT proname, concat('function ', n.nspname, pg_get_userbyid(proowner),
        CASE WHEN prokind <> 'a' THEN pg_get_functiondef(p.oid) END, {rights("proacl", "f", "proowner")},
        obj_description(p.oid, 'pg_proc')) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE {OURS}
        AND {OF_GREAT.format(id="p.oid")}
    UNION ALL SELECT typname, concat('type ', n.nspname, typtype, pg_get_userbyid(typowner), typdefault,
        {rights("typacl", "T", "typowner")}, (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum
        WHERE enumtypid = t.oid), obj_description(t.oid, 'pg_type'))
        FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE {OURS}
        AND typtype NOT IN ('c', 'm') AND typelem = 0
    UNION ALL SELECT tgname, concat('trigger ', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger
        WHERE NOT tgisinternal
    UNION ALL SELECT polname, concat('policy ', polrelid::regclass, polcmd, pg_get_expr(polqual, polrelid),
        (SELECT array_agg(pg_get_userbyid(r)) FROM unnest(polroles) r)) FROM pg_policy
    UNION ALL SELECT rulename, concat('rule ', pg_get_ruledef(r.oid)) FROM pg_rewrite r WHERE rulename <> '_RETURN'
        AND ev_class >= 16384
    UNION ALL SELECT 'default privileges', concat(pg_get_userbyid(defaclrole), defaclnamespace::regnamespace,
        defaclobjtype, defaclacl::text) FROM pg_default_acl
    UNION ALL SELECT extname, concat('extension ', extnamespace::regnamespace) FROM pg_extension
    UNION ALL SELECT pubname, concat('publication ', pg_get_userbyid(pubowner), puballtables,
        (SELECT array_agg(prrelid::regclass::text) FROM pg_publication_rel WHERE prpubid = p.oid)) FROM pg_publication p
    UNION ALL SELECT evtname, concat('event trigger ', evtevent, evtenabled) FROM pg_event_trigger
    UNION ALL SELECT stxname, concat('statistics ', pg_get_statisticsobjdef(oid), pg_get_userbyid(stxowner))
        FROM pg_statistic_ext
    UNION ALL SELECT collname, concat('collation ', pg_get_userbyid(collowner)) FROM pg_collation WHERE oid >= 16384
    UNION ALL SELECT cfgname, concat('configuration ', pg_get_userbyid(cfgowner)) FROM pg_ts_config WHERE oid >= 16384
    UNION ALL SELECT oprname, concat('operator ', oprcode, pg_get_userbyid(oprowner)) FROM pg_operator
        WHERE oid >= 16384
    UNION ALL SELECT proname, concat('right ', {rights("proacl", "f", "proowner")}) FROM pg_proc WHERE oid < 16384
    UNION ALL SELECT oid::text, concat('large object ', pg_get_userbyid(lomowner),
        {rights("lomacl", "L", "lomowner")}, lo_get(oid)::text,
        obj_description(oid, 'pg_largeobject')) FROM pg_largeobject_metadata
    UNION ALL SELECT 'cast', castsource::regtype::text FROM pg_cast WHERE oid >= 16384"""
ROWS = """
    SELECT relname, concat('rows ', format('%I.%I', nspname, relname), query_to_xml(format(
        'SELECT md5(string_agg(t::text, E''\\n'' ORDER BY t::text)) FROM ONLY %I.%I t', nspname, relname),
        true, true, ''))
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND relispopulated"""


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory, python: Path, cluster: Cluster) -> Release:
    for name in (MEMBER, OUTSIDER):
        cluster.admin(f'CREATE ROLE "{name}"')
    cluster.admin(
        f"CREATE ROLE {KEEPER} LOGIN CREATEDB PASSWORD '{CANARY}'; GRANT pg_read_all_data, {MEMBER} TO {KEEPER};"
    )
    return made_in(tmp_path_factory.mktemp("any"), python)


def test_every_database_is_restored_but_for_what_its_backup_names(
    keeper: Release, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> None:
    nightly = pytestconfig.getoption("--nightly")

    @settings(
        max_examples=80 if nightly else 3, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if nightly else [Phase.generate])  # fmt: skip
    @given(some.lists(STEP, min_size=30, max_size=50))
    def held(steps: list[Step]) -> None:
        check(keeper, cluster, tmp_path_factory.mktemp("backups"), steps)

    held()


def check(keeper: Release, cluster: Cluster, folder: Path, steps: list[Step]) -> None:
    name = "any_database"
    cluster.admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    for other in cluster.names(f"{name}_"):
        cluster.admin(f"DROP DATABASE {other} WITH (FORCE)")
    cluster.admin(f"CREATE DATABASE {name} OWNER {KEEPER} TEMPLATE template0")
    script = "\n".join([*beginning(), *made(steps)])
    psql(cluster, name, script)
    keeper.environment["DATABASE"] = postgresql(cluster, name, user=KEEPER)
    taken = keeper.run("restore-point", directory=str(folder), name="point").said
    if "error" in taken:  # nobody else lets the keeper see his large objects, or every row
        assert taken["error"].startswith(("Large objects", "Row-level security")), (taken, script)
        assert "As postgres" in taken["hint"]
        return
    assert "untried" not in taken
    before = seen(cluster, name)
    restored = keeper.ok("restore", directory=str(folder), name="point")
    assert restored["left_out"] == taken["left_out"], script
    named = " ".join(f"{one['what']} {one['statement']}" for one in taken["left_out"])
    after = seen(cluster, name)
    lost = [line for line in before - after if not is_named(line[0], named)]
    more = [line for line in after - before if not is_named(line[0], named)]
    assert (lost, more) == ([], []), script


def is_named(name: str, text: str) -> bool:
    return name in text or name.replace('"', '""') in text


def beginning() -> Iterator[str]:
    yield "SET client_min_messages = error; CREATE TABLE bounds (n int); INSERT INTO bounds VALUES (1);"
    yield f'GRANT ALL ON bounds TO PUBLIC; GRANT ALL ON SCHEMA public TO {KEEPER}, {MEMBER}, "{OUTSIDER}";'
    yield f"ALTER TABLE bounds OWNER TO {KEEPER};"
    for schema in sorted({*SCHEMAS} - {"public"}):
        quoted = quote(schema)
        yield f"CREATE SCHEMA {quoted} AUTHORIZATION {KEEPER}; GRANT ALL ON SCHEMA {quoted} TO PUBLIC;"


def made(steps: list[Step]) -> Iterator[str]:
    tables = ["public.bounds"]
    for number, (statement, role, first, second) in enumerate(steps):
        schema = quote(SCHEMAS[first % len(SCHEMAS)])
        name = quote(f"Thing {number}; é" if first % 3 == 0 else f"thing_{number}")
        whose = [quote(ROLES[pick % len(ROLES)]) for pick in (role, first, second)]
        text = statement.format(
            s=schema, n=name, n2=quote(f"part_{number}"), k=number + 1, r=whose[0], r2=whose[1], r3=whose[2],
            t=tables[first % len(tables)], t2=tables[second % len(tables)])  # fmt: skip
        if "TABLE {s}.{n} (" in statement:
            tables.append(f"{schema}.{name}")
        yield f"SET SESSION AUTHORIZATION {whose[0]};"
        yield f"BEGIN; {text};\nCOMMIT;\nRESET SESSION AUTHORIZATION;"


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def psql(cluster: Cluster, database: str, script: str, *words: str) -> str:
    where = ["-U", "postgres", "-h", cluster.folder, "-p", str(cluster.port), "-d", database]
    done = subprocess.run([POSTGRES / "psql", "-XAtq", *words, *where], input=script, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(cluster: Cluster, database: str) -> set[tuple[str, str]]:
    found = set()
    for asked, path in ((SEEN, "''"), (ROWS, "public")):
        listed = f"SELECT coalesce(json_agg(json_build_array(a, b)), '[]') FROM ({asked}) AS x (a, b);"
        told = psql(cluster, database, f"SET search_path = {path}; {listed}", "-v", "ON_ERROR_STOP=1")
        found |= {tuple(pair) for pair in json.loads(told)}
    return found
