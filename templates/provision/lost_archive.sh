# shellcheck shell=bash
# The archive of a lost server, on a mount or in a bucket that outlived it: only read, by a configuration of its own, with the
# key of the snapshot. What it has that no dump has becomes the newest dump among those that were fetched.

ARCHIVIST=$STATE/lost-archive

# Answers fact archive: how far it goes, as JSON, or why it cannot be read. FOLDER is "" for a bucket; REPOSITORY and OPENER
# are lines of pgBackRest; the programs lost_archive.py and pgbackrest.py; QUERY is what the cluster is asked of itself.
look_lost_archive() { # APPLICATION FOLDER REPOSITORY OPENER KEY_PATH PROGRAM PROGRAM QUERY
  rm -rf "$ARCHIVIST"
  if [ -n "$2" ] && [ ! -f "$2/archive/main/archive.info" ]; then
    fact archive '{"error": "there is no archive in '"$2"'", "hint": "mount it there"}'
  elif [ ! -f "$RECOVERED$5" ]; then
    fact archive '{"error": "its key is not in the snapshot", "hint": "it was sent away before there was an archive"}'
  else
    make_packages pgbackrest python3
    install -d -m 750 -g postgres "$ARCHIVIST"
    printf '%s' "$6" >"$ARCHIVIST/lost_archive.py"
    printf '%s' "$7" >"$ARCHIVIST/pgbackrest.py"
    printf '%s' "$8" >"$ARCHIVIST/cluster.sql"
    (umask 077 && {
      printf '[global]\n%s' "$4" && grep '^repo1-cipher-pass=' "$RECOVERED$5"
      printf '%s\n' "$3" 'repo1-cipher-type=aes-256-cbc' log-level-file=off "lock-path=$ARCHIVIST/lock" '[main]' pg1-path=/nonexistent
    } >"$ARCHIVIST/pgbackrest.conf")
    chgrp postgres "$ARCHIVIST"/*
    chmod 640 "$ARCHIVIST"/*
    install -d -m 700 -o postgres "$ARCHIVIST/lock" "$ARCHIVIST/run"
    cp "$(facts_of "$1")/cluster" "$ARCHIVIST/cluster" 2>/dev/null || : >"$ARCHIVIST/cluster"
    fact archive "$(lost_archive root look "$(cat "$ARCHIVIST/cluster")")"
  fi
}

lost_archive() { # USER VERB WORD...
  (cd / && exec runuser -u "$1" -- env PGBACKREST_CONFIG="$ARCHIVIST/pgbackrest.conf" PYTHONDONTWRITEBYTECODE=1 \
    RUNTIME_DIRECTORY="$ARCHIVIST/run" python3 "$ARCHIVIST/lost_archive.py" "${@:2}")
}

# A server made from the same image as the lost one has its PostgreSQL as well. The archive would take both for one: what this
# one archives is refused where the lost one has a segment of that name, and mixed with it where not.
make_own_cluster() { # APPLICATION
  local lost own version unit data collate kind encoding checksums words=()
  lost=$(cat "$(facts_of "$1")/cluster" 2>/dev/null) || true
  own=$(as_postgres -d postgres -c 'select system_identifier from pg_control_system()' 2>/dev/null) || true
  if [ -z "$lost" ] || [ "$own" != "$lost" ]; then return; fi
  version=$(as_postgres -d postgres -c "select current_setting('server_version_num')::int / 10000")
  is_untouched || die "PostgreSQL is a copy of the lost server's, with its identifier: the archive could not tell them apart" \
    "if nobody needs what is in it: pg_dropcluster --stop $version main; then run it again"
  IFS='|' read -r data collate kind encoding checksums < <(as_postgres -d postgres -c "select current_setting('data_directory'), datcollate,
    datctype, pg_encoding_to_char(encoding), current_setting('data_checksums') from pg_database where datname = 'template1'")
  unit=postgresql@$version-main.service
  runuser -u postgres -- rm -rf "$data.fab-releases"
  [ "$checksums" = off ] || words=(--data-checksums)
  (cd / && runuser -u postgres -- "/usr/lib/postgresql/$version/bin/initdb" --pgdata "$data.fab-releases" --encoding "$encoding" \
    --lc-collate "$collate" --lc-ctype "$kind" "${words[@]}") >/dev/null || die "PostgreSQL could not be made anew" "the lines above are initdb's"
  put_in_place "$unit" "$data"
  systemctl start "$unit"
  await_postgresql || die "PostgreSQL does not start" "/var/log/postgresql"
}

take_lost_archive() { # APPLICATION DUMPS RELEASE FOLDER   answers fact moment
  local place=/var/lib/postgresql/fab-releases/$1-taken said mark=$STATE/$APPLICATION-recovered-moment
  if [ -f "$mark" ]; then # a run that was cut off later has put it in its place
    fact moment "$(cat "$mark")"
    rm -rf "$ARCHIVIST"
    return
  fi
  # By postgres, whose folder it is: install -d would give it what a link there leads to.
  runuser -u postgres -- mkdir -p -m 755 /var/lib/postgresql/fab-releases
  runuser -u postgres -- rm -rf "$place"
  runuser -u postgres -- mkdir -m 700 "$place"
  [ -z "$4" ] || runuser -u postgres -- test -r "$4/archive/main/archive.info" ||
    die "postgres may not read $4: its number was another on the lost server" "let it read there, then run it again; or --without-archive"
  said=$(lost_archive postgres take "$(cat "$ARCHIVIST/cluster")" "$1" "$3" "$place") || true
  case $said in
    *'"taken_at"'*) ;;
    *'"error"'*) die "nothing was taken from the archive: $(json_value error <<<"$said")" "$(json_value hint <<<"$said"); or --without-archive" ;;
    *) die "nothing was taken from the archive" "the lines above say why; or --without-archive" ;;
  esac
  install -d -m 700 "$RECOVERED$2"
  mv "$place/postgresql.json" "$(facts_of "$1")/postgresql.json"
  mv "$place"/* "$RECOVERED$2/"
  rm -rf "$place" "$ARCHIVIST"
  json_value taken_at <<<"$said" >"$mark"
  fact moment "$(json_value taken_at <<<"$said")"
}
