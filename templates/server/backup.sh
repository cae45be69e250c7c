# shellcheck shell=bash
# Backups of the database: taken, listed, restored beside the live one and swapped, rehearsed.

backup() { # JSON
  local current
  current=$(current_id)
  [ -n "$current" ] || die "nothing is live here, so nobody knows the database" "fab deploy"
  prepare_dumps
  project "$RELEASES/$current" backup "$1" || refuse "no backup was taken"
}

prepare_dumps() {
  mkdir -p "$DEPLOY_TO/backups/database"
  chmod 700 "$DEPLOY_TO/backups" "$DEPLOY_TO/backups/database"
}

copy_files() { # REPOSITORY   "": on this server. Waits for its end, and tells its outcome
  local unit=$APPLICATION-offsite.service
  if [ -z "$1" ] && [ ! -e "/etc/systemd/system/$unit" ]; then return; fi
  systemctl_as_root start "$unit" || {
    said_by "$unit"
    [ -n "$1" ] || die "the database is in the backup, media and configuration are not: copying them failed" "its last lines are above"
    die "the backup is on this server only: sending it away failed" "its last lines are above; fab provision sets it up"
  }
  fact copied "$(copy_outcome)"
}

list_backups() {
  local kind folder file VALUE at
  for kind in backup 'restore point'; do
    folder=$DEPLOY_TO/backups/database
    [ "$kind" = backup ] || folder=$DEPLOY_TO/backups/restore-points
    for file in "$folder"/*.json; do
      [ -f "$file" ] || continue
      read_value at "${file%.json}.drill"
      at=$VALUE
      read_value seconds "${file%.json}.drill"
      mark saved "$kind" "$(base64 -w 0 "$file")" "$at" "$VALUE"
    done
  done
  survey_backups
  [ -z "$(current_id)" ] || project "$RELEASES/$(current_id)" kept '{}' >/dev/null || true # not while the database is down
  list_archive
}

rehearse() { # FOLDER NAME KEEP BY   BY: it is a drill, whose failure is history like one of the timer's
  local id reason
  id=$(current_id)
  if project "$RELEASES/$id" drill "{\"directory\": \"$DEPLOY_TO/backups/$1\", \"name\": \"$2\", \"keep\": ${3:-false}, \"journal\": \"$PRIVATE/journal.jsonl\", \"by\": \"$(json_text "$4")\"}"; then return; fi
  reason=$(answer error)
  [ -z "$4" ] || journal failed "$id" '' "$4" "drill: ${reason:-it gave no answer}" drill
  refuse "the backup $2 cannot be restored"
}

restore_plan() { # FOLDER NAME
  project "$RELEASES/$(current_id)" restore "{\"directory\": \"$DEPLOY_TO/backups/$1\", \"name\": \"$2\", \"plan_only\": true}" ||
    refuse "the backup $2 cannot be restored"
}

# RUN marks what this very run swapped: an undo must never swap what an earlier one kept. Its file names that before the
# swap, so that it is known even when nobody lived to tell; whether there is such a database says how far it came.
restore_database() { # RUN FOLDER NAME BY
  rm -f "$PRIVATE"/swapped.* # of runs that were cut off
  project "$RELEASES/$(current_id)" restore "{\"directory\": \"$DEPLOY_TO/backups/$2\", \"name\": \"$3\", $(swapping "$1")}" ||
    refuse "the database was not restored"
  swapped "$1" "$4" "database of $3"
}

swap_back() { # RUN NAME BY   what a restore kept becomes live again
  project "$RELEASES/$(current_id)" undo-restore "{\"kept\": \"$(json_text "$2")\", $(swapping "$1")}" || refuse "the database was not swapped back"
  swapped "$1" "$3" "back to the database kept as $2"
}

drop_kept() { # NAME BY
  project "$RELEASES/$(current_id)" drop-kept "{\"name\": \"$(json_text "$1")\"}" || refuse "the database was not dropped"
  journal dropped "$(current_id)" "$(current_id)" "$2" "$1, which a restore had kept"
}

swapping() { # RUN
  local unit=$APPLICATION-hold.service
  [ -f "/etc/systemd/system/$unit" ] || unit= # no pgBouncer, or not on this host
  printf '"promise": "%s", "hold": "%s"' "$PRIVATE/swapped.$1" "$unit"
}

swapped() { # RUN BY NOTE
  local current line kept
  current=$(current_id)
  answer kept | write_synced "$PRIVATE/swapped.$1"
  kept=$(cat "$PRIVATE/swapped.$1") # "": the one before was gone
  journal restored "$current" "$current" "$2" "$3${kept:+; the one before is kept as $kept}"
  while IFS= read -r line || [ -n "$line" ]; do warn "$line"; done < <(answer remarks)
}

unswap() { # RUN BY   undo of either; nothing where it did not get so far
  local kept
  [ -s "$PRIVATE/swapped.$1" ] || return 0
  kept=$(cat "$PRIVATE/swapped.$1")
  project "$RELEASES/$(current_id)" undo-restore "{\"kept\": \"$kept\", \"if_kept\": true}" || refuse "the database was not swapped back"
  if [ -n "$(answer kept)" ]; then
    swapped "$1" "$2" "back to the database kept as $kept"
    warn "what was written meanwhile is in $(cat "$PRIVATE/swapped.$1")"
  fi
  rm -f "$PRIVATE/swapped.$1"
}

site_is_well() { # RUN REQUEST_JSON   "": a host without a door
  [ -z "$2" ] || probe "$(current_id)" "$2" || die "the site is not well with it${PROBED:+: $PROBED}" "fab logs"
  rm -f "$PRIVATE/swapped.$1"
}
