# shellcheck shell=bash
# PostgreSQL and Redis: a role, a database and a user of the application's own, with no more rights than it needs.

# Nothing but pg_catalog is searched: in a database where others may make operators, a superuser must not meet theirs.
as_postgres() { (cd / && PGOPTIONS='-c search_path=pg_catalog -c standard_conforming_strings=on' exec runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 "$@"); }

look_role() { # NAME ROLE
  { as_postgres -d postgres -v "role=$2" <<<"select case when rolcanlogin then 'login' end, case when rolcreatedb then 'may create databases' end,
      case when rolsuper then 'SUPERUSER' end, case when rolcreaterole then 'MAY CREATE ROLES' end, case when rolreplication then 'MAY REPLICATE' end
      from pg_roles where rolname = :'role'" 2>/dev/null || true; } | tr '|' '\n' | sed '/^$/d' | found "$1"
}

look_database() { # NAME DATABASE
  { as_postgres -d postgres -v "database=$2" <<<"select 'owner ' || pg_get_userbyid(datdba) || ', ' || pg_encoding_to_char(encoding) ||
      case when has_database_privilege('public', oid, 'connect') then ', EVERYBODY MAY CONNECT' else '' end
      from pg_database where datname = :'database'" 2>/dev/null || true; } | found "$1"
}
