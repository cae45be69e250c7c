# shellcheck shell=bash
# PostgreSQL and Redis: a role, a database and a user of the application's own, with no more rights than it needs.

# Nothing but pg_catalog is searched: in a database where others may make operators, a superuser must not meet theirs.
as_postgres() { (cd / && PGOPTIONS='-c search_path=pg_catalog -c standard_conforming_strings=on' exec runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 "$@"); }

look_role() { # NAME ROLE
  { as_postgres -d postgres -v "role=$2" <<<"select case when rolcanlogin then 'login' end, case when rolcreatedb then 'may create databases' end,
      case when rolsuper then 'SUPERUSER' end, case when rolcreaterole then 'MAY CREATE ROLES' end, case when rolreplication then 'MAY REPLICATE' end
      from pg_roles where rolname = :'role'" 2>/dev/null || true; } | tr '|' '\n' | sed '/^$/d' | found "$1"
}

# The password comes with the script, over stdin: it is in no process list, and scram keeps it out of the catalogue.
make_role() { # ROLE PASSWORD   "" leaves the one it has
  local literal=${2//\'/\'\'}
  {
    printf '\\set role %s\n' "'${1//\'/}'"
    printf '%s\n' "select format('create role %I', :'role') where not exists (select from pg_roles where rolname = :'role') \\gexec"
    printf '%s\n' "alter role :\"role\" login createdb nosuperuser nocreaterole noreplication;"
    if [ -n "$2" ] && ! is_password "$1" "$2"; then printf "set log_statement = 'none'; set password_encryption = 'scram-sha-256'; alter role :\"role\" password '%s';\n" "$literal"; fi
  } | as_postgres -d postgres
}

is_password() { # ROLE PASSWORD   set again, it would be kept in other words, and what compares them (pgBouncer) would not know it
  (cd / && PGPASSWORD=$2 PGCONNECT_TIMEOUT=5 psql -XqAtw -h 127.0.0.1 -U "$1" -d postgres -c 'select 1') >/dev/null 2>&1
}

look_database() { # NAME DATABASE
  { as_postgres -d postgres -v "database=$2" <<<"select 'owner ' || pg_get_userbyid(datdba) || ', ' || pg_encoding_to_char(encoding) ||
      case when has_database_privilege('public', oid, 'connect') then ', EVERYBODY MAY CONNECT' else '' end
      from pg_database where datname = :'database'" 2>/dev/null || true; } | found "$1"
}

make_database() { # DATABASE OWNER   UTF8 whatever the cluster was made with
  {
    printf '\\set name %s\n\\set owner %s\n' "'${1//\'/}'" "'${2//\'/}'"
    printf '%s\n' "select format('create database %I owner %I encoding ''UTF8'' lc_collate ''C.UTF-8'' lc_ctype ''C.UTF-8'' template template0', :'name', :'owner')
      where not exists (select from pg_database where datname = :'name') \\gexec"
    printf '%s\n' "alter database :\"name\" owner to :\"owner\"; revoke connect on database :\"name\" from public;"
  } | as_postgres -d postgres
}
