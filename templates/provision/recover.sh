# shellcheck shell=bash
# A lost server: what was sent away is fetched back, and the database is filled before anything serves it.

RECOVERED=/var/lib/fab-releases/recovered

is_bare() {
  [ ! -L "$DEPLOY_TO/current" ] || die "$(current_id) is live here" "recover is for a bare server; fab restore-db puts a database back"
}

fetch_snapshot() { # REPOSITORY KEY VARIABLES SNAPSHOT
  local key=/run/fab-releases.key line
  (umask 077 && printf '%s' "$2" >"$key")
  while IFS= read -r line; do
    [ -z "$line" ] || export "${line?}"
  done <<<"$3"
  export RESTIC_REPOSITORY=$1 RESTIC_PASSWORD_FILE=$key HOME=/root
  rm -rf "${RECOVERED:?}"
  (umask 077 && mkdir -p "$RECOVERED")
  restic --quiet restore "$4" --host "$APPLICATION" --tag fab-releases --target "$RECOVERED" ||
    { rm -f "$key"; die "nothing could be fetched from $1" "is it the right key, and may this server reach it? the lines above are restic's"; }
  fact snapshot "$(restic --quiet snapshots "$4" --host "$APPLICATION" --json 2>/dev/null | sed -n 's/.*"time":"\([^"]*\)".*/\1/p' | head -n 1)"
  rm -f "$key"
  fact release "$(tr -d '\n' <"$RECOVERED/var/lib/fab-releases/offsite/$APPLICATION/release.json")"
}

recovered_certificates() { # certificates and the account they were obtained with
  if [ -d "$RECOVERED/etc/letsencrypt" ] && [ ! -d /etc/letsencrypt/live ]; then cp -a "$RECOVERED/etc/letsencrypt" /etc/; fi
}

recovered_files() { # OWNER GROUP APP_USER FOLDER...   names, not numbers: ids differ between servers
  local owner=$1 group=$2 app=$3 folder from=$RECOVERED$SHARED
  shift 3
  for folder in "$@"; do
    if [ -d "$from/$folder" ]; then
      cp -a -n "$from/$folder/." "$SHARED/$folder/"
      chown -R "$app:www-data" "$SHARED/$folder"
    fi
  done
  mkdir -p "$DEPLOY_TO/backups/database"
  cp -a -n "$RECOVERED$DEPLOY_TO/backups/database/." "$DEPLOY_TO/backups/database/" 2>/dev/null || true
  cp -a -n "$RECOVERED$PRIVATE/journal.jsonl" "$PRIVATE/" 2>/dev/null || true
  chown -R "$owner:$group" "$DEPLOY_TO/backups" "$PRIVATE"
  chmod 700 "$DEPLOY_TO/backups" "$DEPLOY_TO/backups/database"
  fact files "$(find "$SHARED" -type f | wc -l)"
}

# The newest backup into the database provisioning has just made: nothing is in it, so there is nothing to lose.
recovered_database() { # DATABASE
  local folder=$DEPLOY_TO/backups/database newest file tables
  newest=$(find "$folder" -name '2*.json' | sort | tail -n 1)
  [ -n "$newest" ] || die "there is no backup of the database in the snapshot" "is it of this stage?"
  file=${newest%.json}.dump
  printf '%s  %s\n' "$(json_value sha256 <"$newest")" "$file" | sha256sum --quiet --check - || die "$file is not what was written" "recover --snapshot names an older one"
  tables=$(as_postgres -d "$1" <<<"select count(*) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace")
  [ "$tables" = 0 ] || die "the database $1 is not empty" "recover is for a bare server; fab restore-db puts a database back"
  runuser -u postgres -- pg_restore --exit-on-error --single-transaction --dbname="$1" <"$file" || die "the database was not restored" "the lines above are pg_restore's"
  rows_are_right "$1" "$newest"
  as_postgres -d "$1" <<<analyze
  fact database "$(basename "$file" .dump)"
}

json_value() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" | head -n 1; } # KEY

rows_are_right() { # DATABASE MANIFEST
  local table wanted found
  while IFS=$'\t' read -r table wanted; do
    found=$(as_postgres -d "$1" <<<"select count(*) from only $table")
    [ "$found" = "$wanted" ] || die "$table has $found rows, the manifest says $wanted" "the database is not the one that was backed up"
  done < <(python3 -IS -c 'import json, sys; [print(table, rows, sep="\t") for table, rows in json.load(open(sys.argv[1]))["rows"].items()]' "$2")
}
