# shellcheck shell=bash
# PostgreSQL for other hosts: who may come, copies that follow it, and pgBouncer before it.

look_cluster() { # NAME VERSION
  if [ -f "/etc/postgresql/$2/main/postgresql.conf" ]; then echo there; fi | found "$1"
}

make_cluster() { # VERSION   Debian makes one; somebody may have dropped it
  [ -f "/etc/postgresql/$1/main/postgresql.conf" ] || pg_createcluster --start "$1" main >/dev/null
}

hba_is_well() { # as the file is now, before it is taken up
  local wrong
  wrong=$(as_postgres -d postgres -c "select 'line ' || line_number || ': ' || error from pg_hba_file_rules where error is not null")
  [ -z "$wrong" ] || { printf 'pg_hba.conf: %s\n' "$wrong"; return 1; }
}

await_postgresql() {
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    if as_postgres -d postgres -c 'select 1' >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  return 1
}

use_postgresql() { # VERSION   a reload interrupts nobody; only what it cannot take up costs a restart
  local unit=postgresql@$1-main.service
  systemctl reload-or-restart "$unit"
  await_postgresql
  sleep 0.5 # a reload is only asked for
  if [ "$(as_postgres -d postgres -c "select count(*) from pg_settings where pending_restart")" != 0 ]; then systemctl restart "$unit"; fi
  await_postgresql || { postgresql_log "$1"; return 1; }
}

postgresql_log() { # VERSION   its last lines, as its account reads them: that may put a link there
  runuser -u postgres -- timeout 5 tail -n 20 "/var/log/postgresql/postgresql-$1-main.log"
}

# --- copies ---

look_replicator() { # NAME ROLE
  { as_postgres -d postgres -v "role=$2" <<<"select case when rolcanlogin then 'login' end, case when rolreplication then 'may replicate' end,
      case when rolsuper then 'SUPERUSER' end, case when rolcreaterole then 'MAY CREATE ROLES' end, case when rolcreatedb then 'MAY CREATE DATABASES' end
      from pg_roles where rolname = :'role'" 2>/dev/null || true; } | tr '|' '\n' | sed '/^$/d' | found "$1"
}

look_slot() { # NAME SLOT
  { as_postgres -d postgres -v "slot=$2" <<<"select 'there' from pg_replication_slots where slot_name = :'slot' and wal_status is distinct from 'lost'" 2>/dev/null || true; } | found "$1"
}

make_slot() { # SLOT   one whose changes were thrown away is of no use
  as_postgres -d postgres -v "slot=$1" <<<"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = :'slot' and wal_status = 'lost' and not active;
    select pg_create_physical_replication_slot(:'slot') where not exists (select from pg_replication_slots where slot_name = :'slot');" >/dev/null
}

look_replica() { # NAME
  {
    as_postgres -d postgres -c "select case when pg_is_in_recovery() then 'in recovery' else 'a database of its own' end" 2>/dev/null || true
    as_postgres -d postgres -c "select 'streaming from ' || sender_host from pg_stat_wal_receiver where status = 'streaming'" 2>/dev/null || true
  } | found "$1"
}

is_untouched() { # as Debian's package makes it: nobody's data
  [ "$(as_postgres -d postgres -c "select (select count(*) from pg_database where datname not in ('postgres', 'template0', 'template1'))
    + (select count(*) from pg_roles where rolname !~ '^pg_' and rolname <> 'postgres')
    + (select count(*) from pg_class where relnamespace = 'public'::regnamespace)" 2>/dev/null)" = 0 ]
}

make_replica() { # VERSION SLOT CONNINFO   copied beside, then put in the place of what was proven to hold nothing
  local version=$1 data=/var/lib/postgresql/$1/main unit=postgresql@$1-main.service
  if runuser -u postgres -- test -f "$data/standby.signal"; then return; fi
  await_postgresql || true
  is_untouched || die "there is data in $data, and it is not a copy of another database" "if nobody needs it: pg_dropcluster --stop $version main; then fab provision"
  runuser -u postgres -- rm -rf "$data.fab-releases"
  runuser -u postgres -- "/usr/lib/postgresql/$version/bin/pg_basebackup" --pgdata "$data.fab-releases" --slot "$2" --wal-method stream \
    --checkpoint fast --no-password --dbname "$3" || die "the database could not be copied" "the line above says why; is its host up, and does it let this one in?"
  runuser -u postgres -- touch "$data.fab-releases/standby.signal"
  put_in_place "$unit" "$data"
}

put_in_place() { # UNIT DATA   what was made beside as DATA.fab-releases; the unit is stopped then
  systemctl stop "$1"
  runuser -u postgres -- rm -rf "$2.replaced"
  runuser -u postgres -- mv -T "$2" "$2.replaced"
  runuser -u postgres -- mv -T "$2.fab-releases" "$2"
  runuser -u postgres -- rm -rf "$2.replaced"
}

use_replica() { # VERSION ADDRESS
  local tries unit=postgresql@$1-main.service
  systemctl restart "$unit" || true
  await_postgresql || { postgresql_log "$1"; return 1; }
  for ((tries = 0; tries < 600; tries++)); do
    if [ "$(as_postgres -d postgres -c "select sender_host from pg_stat_wal_receiver where status = 'streaming'")" = "$2" ]; then return; fi
    sleep 0.1
  done
  postgresql_log "$1"
  return 1
}

# A role without any right, by which the account that deploys may ask how far copies are.
look_watcher() { # NAME ROLE
  { as_postgres -d postgres -v "role=$2" <<<"select 'login' from pg_roles where rolname = :'role' and rolcanlogin and not rolsuper" 2>/dev/null || true; } | found "$1"
}
