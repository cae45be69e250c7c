# shellcheck shell=bash
# How a host does what it is there for besides releases. Asked with no rights but a login of PostgreSQL's own.

ask_postgresql() { psql -XqAtw -F ' ' -d postgres -c "$1" 2>/dev/null; }

look_primary() {
  local said
  if ! said=$(ask_postgresql "select pg_is_in_recovery(), (select count(*) from pg_stat_replication)"); then
    mark role postgresql "does not answer" ill
  elif [ "${said% *}" = t ]; then
    mark role postgresql "is a copy itself: it takes no writes" ill
  else
    mark role postgresql "takes writes, ${said#* } following" well
  fi
}

look_copy() { # what it received and has not yet shown is how far behind it is; a quiet database is no delay
  local said recovery receiving behind
  if ! said=$(ask_postgresql "select pg_is_in_recovery(), exists (select from pg_stat_wal_receiver),
      case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
      else coalesce(extract(epoch from now() - pg_last_xact_replay_timestamp()), 0)::int end"); then
    mark role replica "does not answer" ill
    return
  fi
  read -r recovery receiving behind <<<"$said"
  if [ "$recovery" = f ]; then
    mark role replica "is a database of its own now" ill
  elif [ "$receiving" = f ]; then
    mark role replica "hears nothing of the database" ill
  elif ((behind > 60)); then
    mark role replica "follows, $behind s behind" ill
  else
    mark role replica "follows, $behind s behind" well
  fi
}

look_active() { # ROLE UNIT
  local state
  state=$(systemctl is-active "$2" || true)
  mark role "$1" "$state" "$([ "$state" = active ] && echo well || echo ill)"
}
