# shellcheck shell=bash
# A moment of the archive becomes a backup like any other: the cluster as it was runs beside the live one meanwhile.

archivist() { printf '/usr/local/lib/fab-releases/%s-archive' "$APPLICATION"; }

list_archive() {
  [ ! -x "$(archivist)" ] || fact archive "$(sudo -n -u postgres "$(archivist)" look "$APPLICATION" 2>/dev/null || true)"
}

take_moment() { # MOMENT   20261120-143500-000000 in UTC, or latest
  local current said=/var/lib/postgresql/fab-releases/$APPLICATION.json
  current=$(current_id)
  grep -q '"moment"' "$RELEASES/$current/.release/project.py" ||
    die "the live release was made before there was an archive, and cannot read it" "fab deploy, then run it again"
  exec 8>>"$PRIVATE/moment.lock"
  chmod 600 "$PRIVATE/moment.lock"
  flock -n 8 || die "another run is taking a moment from the archive" "wait for it"
  end_moments
  prepare_dumps
  MOMENT=$1
  trap 'end_moment "$MOMENT"' EXIT
  systemctl_as_root start "$APPLICATION-moment@$1.service" || no_moment "$1" "$said"
  project "$RELEASES/$current" moment "$(moment_of "$current" "$said")" || refuse "the database as it was then was not taken"
  trap - EXIT
  end_moment "$1"
}

no_moment() { # MOMENT SAID   in its own words; it has none where it was killed
  [ ! -s "$2" ] || die "$(said_of error <"$2")" "$(said_of hint <"$2")"
  said_by "$APPLICATION-moment@$1.service"
  die "nothing was taken from the archive: what restores it beside was ended" "its last lines are above; the live database is untouched"
}

# What a run left that was killed; one that is alive holds the lock.
end_moments() {
  local unit
  for unit in $(systemctl list-units --plain --no-legend --full "$APPLICATION-moment@*" | sed -n 's/^\([^ ]*\) .*/\1/p'); do
    warn "$unit was left by a run that was killed: ended, and what it restored is removed"
    unit=${unit#*@}
    end_moment "${unit%.service}"
  done
}

end_moment() { systemctl_as_root stop "$APPLICATION-moment@$1.service" || true; } # MOMENT

said_of() { python3 -IS -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; } # KEY

moment_of() { # ID SAID   what the release's program is told; the release it names is the one that was live then
  local at
  at=$(said_of taken_at <"$2")
  printf '{"directory": "%s", "name": "%s", "taken_at": "%s", "host": "%s", "release": "%s"}' \
    "$DEPLOY_TO/backups/database" "$(said_of name <"$2")" "$at" "/run/$APPLICATION-moment" "$(live_at "$at")"
}

live_at() { # TIME   both are in UTC and in the same form
  sed -n 's/.*"event": "live", "release": "\([0-9a-f-]*\)".*"at": "\([^"]*\)".*/\2 \1/p' "$PRIVATE/journal.jsonl" |
    awk -v at="$1" '$1 <= at {id = $2} END {print id}'
}
