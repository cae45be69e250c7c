# shellcheck shell=bash
# shellcheck disable=SC2329  # what the library calls is said in other words here
# Questions about what a host is there for besides releases, asked with no rights but a login of PostgreSQL's own.

ask_database() { # SQL...   of which each gives lines "WORD VALUE..."
  local said
  if ! pg_isready -q; then printf 'down\n'; return; fi
  said=$(printf '%s;\n' "$@" | psql -XqAtw -v ON_ERROR_STOP=1 -d postgres 2>&1) || { printf 'refused %s\n' "$(tail -n 1 <<<"$said")"; return 0; }
  printf '%s\n' "$said"
}

ask_primary() {
  ask_database "select 'recovery ' || pg_is_in_recovery()" \
    "select 'version ' || split_part(current_setting('server_version'), ' ', 1)" \
    "select 'slot ' || slot_name || ' ' || active || ' ' || coalesce(wal_status, 'reserved') from pg_replication_slots where slot_type = 'physical'"
}

ask_copy() { # what it received and has not yet shown is how far behind it is; a quiet database is no delay
  ask_database "select 'recovery ' || pg_is_in_recovery()" \
    "select 'receiving ' || exists (select from pg_stat_wal_receiver)" \
    "select 'behind ' || case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
      else coalesce(extract(epoch from now() - pg_last_xact_replay_timestamp()), 0)::int end"
}

ask_answers() { # UNIT PORT
  printf 'state %s\n' "$(systemctl is-active "$1" 2>/dev/null)"
  if timeout 4 bash -c "</dev/tcp/127.0.0.1/$2" 2>/dev/null; then printf 'open\n'; fi
}

ask_balanced() { # UPSTREAM HOST PATH   as `fab status` does
  mark() { printf '%s %s\n' "$4" "$3"; }
  look_balanced "$@"
}

ask_renewal() {
  printf 'enabled %s\n' "$(systemctl is-enabled certbot.timer 2>/dev/null)"
  printf 'active %s\n' "$(systemctl is-active certbot.timer 2>/dev/null)"
  printf 'last %s\n' "$(systemctl show -p Result --value certbot.service 2>/dev/null)"
}
