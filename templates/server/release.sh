# shellcheck shell=bash
# Releases on disk: what each one is, which one is live, what an interrupted run left.

current_id() { # "" also where it leads to anything but a name in releases/
  local target
  target=$(readlink "$DEPLOY_TO/current" 2>/dev/null) || return 0
  target=${target%/}
  case $target in /*) ;; *) target=$DEPLOY_TO/$target ;; esac
  if [ "${target%/*}" -ef "$RELEASES" ]; then printf '%s' "${target##*/}"; fi
}

state_of() { # ID
  sed -n 's/^{.*"state": "\([a-z]*\)".*}$/\1/p' "$RELEASES/$1/release.json" 2>/dev/null || true
}

write_synced() { # PATH < content   durable and whole, or not there
  cat >"$1.part"
  sync "$1.part"
  mv -T "$1.part" "$1"
}

set_state() { # ID STATE
  [ -f "$RELEASES/$1/release.json" ] || return 0
  [ "$(state_of "$1")" != "$2" ] || return 0
  sed "s/\"state\": \"[a-z]*\"/\"state\": \"$2\"/" "$RELEASES/$1/release.json" | write_synced "$RELEASES/$1/release.json"
}

journal() { # EVENT ID PREVIOUS BY NOTE [UNIT]
  local file=$PRIVATE/journal.jsonl last
  # A power loss can leave half a last line: it is closed, never continued.
  if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
  [ -e "$file" ] || : >"$file"
  last=$(tail -n 50 "$file" | sed -n 's/^{"seq": \([0-9]*\),.*}$/\1/p' | tail -n 1)
  printf '{"seq": %d, "event": "%s", "release": "%s", "previous": "%s", "at": "%s", "by": "%s", "note": "%s"%s}\n' \
    "$((${last:-0} + 1))" "$1" "$2" "$3" "$(date -u +%FT%TZ)" "$(json_text "$4")" "$(json_text "$5")" "${6:+, \"unit\": \"$6\"}" >>"$file"
  sync "$file"
}

json_text() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '%s' "${text//[[:cntrl:]]/ }"
}

prepare_folders() {
  mkdir -p "$RELEASES" "$STAGING" "$ENVIRONMENTS" "$SHARED" "$PRIVATE" "$DEPLOY_TO/backups"
  if [ -d "$DEPLOY_TO/current" ] && [ ! -L "$DEPLOY_TO/current" ]; then
    die "$DEPLOY_TO/current is a directory, not a link" "move it away or adopt it (docs/how-to/adopt-an-existing-checkout.md)"
  fi
}

# The switch: users see the old release or the new one. The name of the new link is unique, so that an interrupted
# run can never have left one for `mv` to publish; -T refuses to move into a directory.
point_current() { # ID
  local link
  link=$DEPLOY_TO/.current.$BASHPID.$RANDOM
  ln -s "releases/$1" "$link"
  mv -T "$link" "$DEPLOY_TO/current"
  sync "$DEPLOY_TO"
  [ "$(current_id)" = "$1" ]
}

is_complete() { # ID
  [ -f "$RELEASES/$1/release.json" ] && [ -f "$RELEASES/$1/.release/services.json" ] && [ -x "$RELEASES/$1/.venv/bin/python" ]
}

# Nothing to ask about: `current` leads to a release that is all there, and every release says what it is.
is_plain() { # CURRENT
  local id
  if [ -z "$1" ]; then [ ! -e "$PRIVATE/journal.jsonl" ] && [ -z "$(release_ids)" ]; return; fi
  is_complete "$1" || return 1
  for id in $(release_ids); do [ -n "$(state_of "$id")" ] || return 1; done
}

settled() { # CURRENT PROBE   -> the release that is live, or was before `current` came to harm
  local serving=''
  if [ -d "$RELEASES/${1:-none}" ] && probe "$1" "$2" >&2; then serving=$1; fi
  server releases.settle "{\"arguments\": {\"running\": \"$(running_ids | tr '\n' ' ')\", \"serving\": \"$serving\"}, \"account\": \"\"}"
}

# Building is over: from here on it is a release. Its data is on disk before a name can lead to it.
finish_build() { # ID RELEASE_JSON
  local dir=$STAGING/$1 files
  files=$(find "$dir" -name .venv -prune -o -type f -print | wc -l)
  sed "s/\"files\": [0-9]*/\"files\": $files/; s/\"lock\": \"\"/\"lock\": \"$(cat "$dir/.release/lock.key" 2>/dev/null)\"/
    s/\"static\": \"\"/\"static\": \"$(cat "$dir/.release/static.key" 2>/dev/null)\"/
    s/\"migrations\": \"\"/\"migrations\": \"$(cat "$dir/.release/migrations.key" 2>/dev/null)\"/
    s/\"python\": \"\"/\"python\": \"$(cat "$dir/.release/python" 2>/dev/null)\"/" <<<"$2" >"$dir/release.json"
  ln -sfn "$RUN/$1.sock" "$dir/web.sock"
  sync -f "$dir"
  mv -T "$dir" "$RELEASES/$1"
  sync "$RELEASES"
  fact files "$files"
}

remove_release() { # ID   first a name that is no release, then its files
  [ -d "$RELEASES/$1" ] || return 0
  [ "$1" != "$(current_id)" ] || die "refusing to remove $1: it is live"
  mv -T "$RELEASES/$1" "$RELEASES/.gc-$1"
}

remove_environments() { # those that no release links to, and a half published one; as with releases, first the name
  local path linked
  linked=$(readlink "$RELEASES"/*/.venv "$STAGING"/*/.venv 2>/dev/null) || true
  for path in "$ENVIRONMENTS"/*/ "$ENVIRONMENTS"/.new-*/; do
    path=${path%/}
    case $linked$'\n' in */"${path##*/}"$'\n'*) continue ;; esac
    [ ! -d "$path" ] || mv -T "$path" "$ENVIRONMENTS/.gc-${path##*/}"
  done
}

remove_rubbish() { # what is neither release nor environment any more; the folders of an environment are read-only
  local path
  for path in "$RELEASES"/.gc-* "$ENVIRONMENTS"/.gc-*; do
    [ -d "$path" ] || continue
    find "$path" -type d ! -perm -u+w -exec chmod u+w {} + 2>/dev/null || true
    rm -rf "$path" 2>/dev/null || true
  done
}

# Slow and of no consequence: it goes on after the run, without the lock; the next repair takes what it did not.
sweep() {
  # A session of its own: what ends the run's process group must not end it. A file no release holds has one link left.
  # shellcheck disable=SC2016
  setsid -f nice bash -c "$(declare -f remove_rubbish)"'; RELEASES=$1 ENVIRONMENTS=$2; remove_rubbish
    find "$3" -type f -links 1 -mtime +7 -delete' \
    _ "$RELEASES" "$ENVIRONMENTS" "$SHARED/static" 9>&- 3>&- </dev/null >/dev/null 2>&1
}

discard() { # ID   undo of building
  rm -rf "${STAGING:?}/$1" "${STAGING:?}/$1.index"
  remove_release "$1"
  remove_environments
  sweep
}

# current -> ID, proven through the front door and recorded, or back to what it was: all or nothing, whoever is watching.
publish() { # ID PREVIOUS LEAVES PROBE BY NOTE
  local id=$1 was=$2 leaves=$3 request=$4 by=$5 note=$6
  [ "$(current_id)" = "$was" ] || die "current is $(current_id), not $was: somebody else changed it" "fab status"
  is_complete "$id" || die "release $id is not complete" "fab deploy"
  sync -f "$RELEASES/$id"
  # shellcheck disable=SC2064  # the values of now
  trap "$(printf 'withdraw %q %q %q %q' "$id" "$was" "$by" "failed its check through the front door")" EXIT
  point_current "$id"
  [ -z "$request" ] || probe "$id" "$request" || die "release $id is not well through the front door${PROBED:+: $PROBED}" "fab logs --service nginx, and fab logs"
  # The journal first: a death in between is then seen (current is not `live`), and repair finishes it.
  journal live "$id" "$was" "$by" "$note"
  set_state "$id" live
  trap - EXIT
  [ -z "$was" ] || [ "$was" = "$id" ] || set_state "$was" "$leaves"
  fact current "$id"
}

activate() { # ID PREVIOUS LEAVES PROBE BY NOTE
  critical publish "$@"
}

withdraw() { # ID PREVIOUS BY NOTE
  if [ -n "$2" ]; then
    set_state "$2" live
    point_current "$2"
  else
    rm -f "$DEPLOY_TO/current"
  fi
  set_state "$1" "${5:-bad}"
  journal withdrawn "$1" "$2" "$3" "$4"
  fact current "$2"
}

# Undo of activate: the next good thing to do whether the switch happened or not.
put_back() { # ID PREVIOUS BY STATE_OF_ID
  [ "$(current_id)" = "$1" ] || { set_state "$1" "$4"; return 0; }
  critical withdraw "$1" "$2" "$3" "the run failed" "$4"
}

last_good() { # EXCEPT   the newest release that was live and is whole
  local id
  tac "$PRIVATE/journal.jsonl" 2>/dev/null | sed -n 's/.*"event": "live", "release": "\([0-9a-f-]*\)".*/\1/p' | while read -r id; do
    if [ "$id" != "$1" ] && is_complete "$id" && [ "$(state_of "$id")" != bad ]; then
      echo "$id"
      break
    fi
  done
}

# What an interrupted run left, set right. Idempotent; the first step of everything that changes a server.
repair() { # PROBE BY
  local id state current back
  prepare_folders
  rm -rf "${STAGING:?}"/* "$DEPLOY_TO"/.current.* "$PRIVATE"/lock.[0-9]* 2>/dev/null || true
  current=$(current_id)
  if ! is_plain "$current"; then
    back=$(settled "$current" "$1")
    if [ -n "$back" ] && [ "$back" != "$current" ]; then
      point_current "$back"
      journal repaired "$back" "$current" "$2" "current did not lead to a complete release"
      set_state "$back" live
    fi
    current=$back
  fi
  case $(state_of "${current:-none}") in
    ready | retired | bad) # died between the switch and its record
      (services_started "$current") || true
      if probe "$current" "$1"; then
        journal live "$current" "$(last_good "$current")" "$2" "finished after an interruption"
        set_state "$current" live
        warn "release $current had gone live when the last run was interrupted: recorded"
      else
        back=$(last_good "$current")
        [ -z "$back" ] || (services_started "$back") || true
        withdraw "$current" "$back" "$2" "not well after an interruption"
        warn "release $current was left live but is not well: put back ${back:-nothing}"
        current=$back
      fi
      ;;
  esac
  for id in $(release_ids); do
    [ "$id" != "$current" ] || continue
    state=$(state_of "$id")
    case $state in
      live) if rolled_back_from "$id" "$current"; then set_state "$id" bad; else set_state "$id" retired; fi ;;
      retired | bad) ;;
      *) warn "release $id was never live: removed"; remove_release "$id" ;;
    esac
  done
  if [ -n "$current" ]; then
    # What is live may be unable to start (its database is down): that must not stand in the way of the next release.
    (services_started "$current") || warn "not everything of the live release $current runs: fab logs"
  fi
  stop_strays "$current"
  remove_environments
  remove_rubbish
}

rolled_back_from() { # ID CURRENT   by the newest entry but those of timers: the run was cut before it could mark it
  grep -vE '"event": "(drill|failed)"' "$PRIVATE/journal.jsonl" 2>/dev/null | tail -n 1 | grep -q "\"release\": \"$2\", \"previous\": \"$1\".*\"note\": \"rollback"
}

release_ids() {
  local path
  for path in "$RELEASES"/*/; do
    [ -d "$path" ] || continue
    path=${path%/}
    printf '%s\n' "${path##*/}"
  done
}

# Keep the newest COUNT that were live, whatever is live or running, and every pinned one; the rest goes.
prune() { # COUNT
  local id kept=0 current running
  current=$(current_id)
  running=" $(running_ids | tr '\n' ' ') "
  while read -r id; do
    [ -d "$RELEASES/$id" ] || continue
    if [ "$id" = "$current" ] || [ -e "$RELEASES/$id/.release/pinned" ] || [[ $running == *" $id "* ]]; then continue; fi
    if [ "$(state_of "$id")" = retired ] && [ "$kept" -lt "$1" ]; then
      kept=$((kept + 1))
      continue
    fi
    remove_release "$id"
    rm -f "$DEPLOY_TO/backups/restore-points/$id".* # it answered only for this release
    fact pruned "$id"
  done < <(
    {
      tac "$PRIVATE/journal.jsonl" 2>/dev/null | sed -n 's/.*"event": "live", "release": "\([0-9a-f-]*\)".*/\1/p'
      release_ids | sort -r
    } | awk '!seen[$0]++'
  )
  remove_environments
  sweep
}
