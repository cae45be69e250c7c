"""What is said to PostgreSQL about a database that is made again; values come beside it (see `postgres`)."""

from __future__ import annotations

from .. import postgres
from .settings import APPLY

# Said inside a database that may be an application's: only catalogues, nothing of its own is called or found.
HAS_TABLES = """\
select count(*) from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
where c.relkind operator(pg_catalog.=) any ('{r,p}'::pg_catalog."char"[])
and n.nspname operator(pg_catalog.!~) '^(pg_|information_schema$)';
"""
NUMBER = "select oid from pg_database where datname = :'name';\n"
DROP = """\
set client_min_messages = error;
drop database if exists :"name" with (force);
"""
CREATE = """\
create database :"name" owner :"owner" template template0 encoding :'encoding'
  lc_collate :'collate' lc_ctype :'ctype' """
PROVIDERS = {
    "i": "locale_provider icu icu_locale :'locale'",
    "b": "locale_provider builtin builtin_locale :'locale'",
}
OWNER = """\
select rolname from pg_roles where rolname = :'owner' and not rolsuper;
"""
BELONGS = """\
select r.rolname from pg_database d join pg_roles r on r.oid = datdba where datname = :'name';
"""
# In a database that is empty still.
EXTENSIONS = f"""\
begin;
{postgres.TAKE_GIVEN}
do $do$
declare
  one json;
begin
  for one in select json_array_elements(current_setting('fab.given')::json) loop
    if to_regnamespace(quote_ident(one ->> 'schema')) is null then
      execute format('create schema %I', one ->> 'schema');
      execute format('alter schema %I owner to %I', one ->> 'schema', one ->> 'owner');
    end if;
    execute format('create extension if not exists %I schema %I cascade', one ->> 'name', one ->> 'schema');
  end loop;
end
$do$;
commit;
"""
# Limits, comment, rights and settings, which would be in the way while it is filled.
PROPERTIES = f"""\
begin;
{postgres.TAKE_GIVEN}
create temporary table refused (what text) on commit drop;
do $do$
declare
  given json := current_setting('fab.given')::json;
  name text := given ->> 'name';
  one json;
  whom text;
begin
  execute format('alter database %I connection limit %s', name, (given ->> 'connections')::int);
  execute format('comment on database %I is %L', name, given ->> 'comment');
  if (given ->> 'has_grants')::bool then
    execute format('revoke all on database %I from public', name);
  end if;
  for one in select json_array_elements(given -> 'grants') loop
    if one ->> 'privilege' not in ('CONNECT', 'CREATE', 'TEMPORARY') then
      raise 'no privilege of a database: %', one ->> 'privilege';
    end if;
    whom := case when one ->> 'to' is null then 'public' else quote_ident(one ->> 'to') end;
    begin
      execute format('grant %s on database %I to %s', one ->> 'privilege', name, whom)
        || case when (one ->> 'grantable')::bool then ' with grant option' else '' end;
    exception when undefined_object then
      insert into refused values (format('grant %s on database %I to %s', one ->> 'privilege', name, whom));
    end;
  end loop;
  for one in select json_array_elements(given -> 'settings') loop
    whom := case when one ->> 'role' is null then format('database %I', name)
      else format('role %I in database %I', one ->> 'role', name) end;
    begin{APPLY}
    exception when others then
      insert into refused values (format('alter %s set %I', whom, one ->> 'name'));
    end;
  end loop;
end
$do$;
select coalesce(json_agg(what), '[]') from refused;
commit;
"""
# Of a stage that calls its role otherwise: what the old one may, the new one may.
FOLLOW = f"""\
begin;
{postgres.TAKE_GIVEN}
do $do$
declare
  given json := current_setting('fab.given')::json;
begin
  if exists (select from pg_roles where rolname = (given ->> 'old')::name and not rolsuper)
      and (given ->> 'old') <> (given ->> 'new') then
    execute format('grant %I to %I', given ->> 'old', given ->> 'new');
  end if;
end
$do$;
commit;
"""

# --- as the owner of the data

# A table is only given to who may create one there; what the backup allows comes later.
LET_IN = f"""\
{postgres.TAKE_GIVEN}
create temporary table guests (guest name);
do $do$
declare
  one name;
begin
  for one in select r.rolname from json_array_elements_text(current_setting('fab.given')::json) owner
      join pg_roles r on r.oid = to_regrole(owner)
      where pg_has_role(r.oid, 'member') and not has_schema_privilege(r.oid, 'public', 'create') loop
    execute format('grant create on schema public to %I', one);
    insert into guests values (one);
  end loop;
end
$do$;
select coalesce(json_agg(guest), '[]') from guests;
"""
LET_OUT = f"""\
{postgres.TAKE_GIVEN}
do $do$
declare
  one text;
begin
  for one in select json_array_elements_text(current_setting('fab.given')::json) loop
    execute format('revoke create on schema public from %I', one);
  end loop;
end
$do$;
"""
# What pg_dump dumps rows of: not the tables of extensions. Planning a count looks into the functions of indexes, which
# find names as the application does: from there on everything of ours is said with its schema. Each table has its own
# transaction: locks of thousands, and of their indexes, would be more than there are.
ROWS = f"""\
{postgres.TAKE_GIVEN}
create temporary table counted as
select format('%I.%I', nspname, relname) as name from pg_class c join pg_namespace n on n.oid = relnamespace
where relkind = 'r' and relpersistence <> 't' and nspname !~ '^(pg_|information_schema$)'
and not exists (select from pg_depend d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e');
create temporary table amounts (name text, amount bigint);
select set_config('search_path', current_setting('fab.given')::json #>> '{{}}', false) \\g /dev/null
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
select coalesce(pg_catalog.json_object_agg(name, amount), '{{}}') from pg_temp.amounts;
"""
NOT_FILLED = """\
select coalesce(json_agg(nspname || ' ' || relname), '[]') from pg_class c
join pg_namespace n on n.oid = relnamespace where relkind = 'm' and not relispopulated;
"""
# Without statistics the first hour is slow. Functions in indexes run as the owner of their table.
ANALYZE = f"""\
{postgres.TAKE_GIVEN}
select set_config('search_path', current_setting('fab.given')::json #>> '{{}}', false) \\g /dev/null
set client_min_messages = error;
analyze;
"""
