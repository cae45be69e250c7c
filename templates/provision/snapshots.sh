# shellcheck shell=bash
# Files put back as a snapshot has them: folders of shared by exchange, configuration part by part.

CONFIGURATION=/var/lib/fab-releases/configuration # root's alone; a folder for each application, with wanted/, before/ and kept/

# An exchange is short and must not be left half-way: it is deaf to a stop, and the script obeys when it has ended, so that
# an undo never meets what it undoes.
snapshot() { # PROGRAM VERB JSON   its last line that is JSON is the answer
  local said line status=0 stopped='' deaf=:
  case $2 in swap | swap-back | unswap | finish) deaf="trap '' TERM INT HUP PIPE" && trap 'stopped=143' TERM INT HUP ;; esac
  said=$(eval "$deaf"; exec python3 -IS -c "$1" "$2" "$3" 2>&1 3>&-) || status=$?
  trap - TERM INT HUP
  ANSWER=
  while IFS= read -r line; do
    case $line in
      '{'*) ANSWER=$line ;;
      'warning '*) warn "${line#warning }" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done <<<"$said"
  [ -z "$stopped" ] || exit "$stopped"
  fact snapshot "$ANSWER"
  if [ "$status" = 0 ]; then return; fi
  line=$(answer error)
  die "${line:-$2 ended with status $status: $(tail -n 1 <<<"$said")}" "$(answer hint)"
}

# By its owner: root does not write where somebody else could have put a link.
journal_as() { # USER BY NOTE
  # shellcheck disable=SC2016
  runuser -u "$1" -- bash -c "set -e; $(declare -f journal json_text current_id)"'
    PRIVATE=$1 DEPLOY_TO=$2 current=$(current_id)
    journal restored "$current" "$current" "$3" "$4"' _ "$PRIVATE" "$DEPLOY_TO" "$2" "$3"
}

usable() { # APP_USER FOLDER...   written by the application, read by nginx
  local app=$1 folder
  shift
  for folder in "$@"; do
    runuser -u "$app" -- test -w "$SHARED/$folder" || die "$app may not write in $SHARED/$folder" "it is as it was before"
    if id www-data >/dev/null 2>&1; then
      runuser -u www-data -- test -x "$SHARED/$folder" || die "www-data may not read $SHARED/$folder" "it is as it was before"
    fi
  done
}

# --- configuration

look_configuration() { # tells which files a run that died had begun with, and until when what --undo brings back was live
  local folder=$CONFIGURATION/$APPLICATION path
  while IFS= read -r path; do mark begun "${path%/.absent}"; done < <(
    if [ -d "$folder/before" ]; then find "$folder/before" ! -type d -printf '/%P\n'; fi
  )
  if [ -d "$folder/kept" ]; then fact kept "$(cat "$folder/kept.until" 2>/dev/null || echo before)"; fi
}

restart_live() { # connections wait in the socket of the web processes; workers finish what they have in hand
  local id service
  id=$(current_id)
  [ -n "$id" ] || return 0
  systemctl daemon-reload
  : >"$CONFIGURATION/$APPLICATION/restarted"
  for service in $(services_of worker); do systemctl restart --no-block "$(unit "$service" "$id")"; done
  for service in $(services_of beat); do systemctl restart --no-block "$(unit "$service" '')"; done
  sleep 1 # they were only asked to
  for service in $(services_of web); do
    systemctl restart "$(unit "$service" "$id")" || not_well "$id" "$service" "does not start with it" "its last lines are above"
  done
}

site_answers() { # USER REQUEST_JSON   by the program of the release, which is not root's: so not as root
  local id said status=0
  id=$(current_id)
  [ -n "$id" ] && [ -n "$2" ] || return 0
  said=$(printf '%s' "$2" | runuser -u "$1" -- python3 -IS "$RELEASES/$id/.release/probe.py" -) || status=$?
  [ "$status" = 0 ] || { printf '%s\n' "$said"; die "the site is not well with it" "the line above says why; fab logs"; }
}

restored() { # from here on --undo goes back to what was before this run
  local folder=$CONFIGURATION/$APPLICATION
  rm -rf "$folder/kept.old"
  if [ -d "$folder/kept" ]; then mv -T "$folder/kept" "$folder/kept.old"; fi
  mv -T "$folder/before" "$folder/kept"
  date -u '+%F %T UTC' >"$folder/kept.until"
  rm -rf "$folder/kept.old" "$folder/wanted" "$folder/restarted"
}

drop_wanted() { rm -rf "$CONFIGURATION/$APPLICATION/wanted"; }

given_up() { # undo: the services run with what is there again
  local folder=$CONFIGURATION/$APPLICATION
  if [ -e "$folder/restarted" ]; then restart_live; fi
  if [ -d "$folder/kept.old" ] && [ ! -d "$folder/kept" ]; then mv -T "$folder/kept.old" "$folder/kept"; fi
  rm -rf "$folder/before" "$folder/before.part" "$folder/wanted" "$folder/restarted"
}
