# shellcheck shell=bash
# Looks, changes nothing: everything a plan is made from, in one go.

survey() { # MINIMUM_FREE_MB FILES_NEEDED...
  local id current line path minimum=$1 base
  shift
  base=$(existing_parent "$DEPLOY_TO")
  current=$(current_id)
  if [ -d "$DEPLOY_TO/current" ] && [ ! -L "$DEPLOY_TO/current" ]; then
    current='!directory'
    mark problem "$DEPLOY_TO/current is a real directory" "move it away, or adopt it first: docs/how-to/adopt-an-existing-checkout.md"
  fi
  fact current "$current"
  for id in $(release_ids); do
    if [ -e "$RELEASES/$id/.release/warm" ]; then mark warm "$id"; fi
    if [ -f "$RELEASES/$id/release.json" ]; then mark release "$(cat "$RELEASES/$id/release.json")"; else mark leftover "$id is not complete"; fi
    is_complete "$id" || mark incomplete "$id"
  done
  while IFS= read -r line; do mark journal "$line"; done < <(recent_journal)
  if [ -z "$current" ] && [ -L "$DEPLOY_TO/current" ]; then mark leftover "current leads to $(readlink "$DEPLOY_TO/current"), which is no release"; fi
  for path in "$STAGING"/*/ "$DEPLOY_TO"/.current.*; do
    if [ -e "$path" ] || [ -L "$path" ]; then mark leftover "$path"; fi
  done
  for path in "$RELEASES"/.gc-* "$ENVIRONMENTS"/.[gn]*; do
    if [ -e "$path" ]; then fact rubbish yes; fi
  done
  if held_by_root; then
    fact lock "$(tr '\n\t' '  ' <"$ROOT_LOCK")"
  elif [ -e "$PRIVATE/lock" ] && ! flock -n -s "$PRIVATE/lock" true 2>/dev/null; then
    fact lock "$(tr '\n\t' '  ' <"$PRIVATE/lock")"
  fi
  if [ -e "$PRIVATE/freeze" ]; then fact freeze "$(tr '\n\t' '  ' <"$PRIVATE/freeze")"; fi
  if [ -e "$PRIVATE/maintenance" ]; then fact maintenance on; fi
  if [ -f "$RELEASES/$current/.release/services.json" ] && ! grep -qF "\"root\": \"$RELEASES/$current\"" "$RELEASES/$current/.release/services.json"; then
    fact moved yes # the folder has another name than when this was built
  fi
  survey_services "$current"
  survey_fitness "$base" "$minimum" "$@"
}

recent_journal() { # of what timers did less: a year of it must not hide the release to go back to
  awk '/^\{.*\}$/ { if (/"event": "(drill|failed)"/) runs[++r] = $0; else lines[++n] = $0 }
    END { for (i = r > 30 ? r - 29 : 1; i <= r; i++) print runs[i]; for (i = n > 300 ? n - 299 : 1; i <= n; i++) print lines[i] }' \
    "$PRIVATE/journal.jsonl" 2>/dev/null || true
}

survey_services() { # CURRENT   what runs, and what of the live release should and does not
  local service id state told seen=' '
  while IFS=$'\t' read -r service id state told; do
    if [ "$id" = - ]; then
      seen+="$service "
      mark unit "$service" "$state" "$told"
    elif [ "$state" != inactive ] || [ "$id" = "$1" ]; then
      seen+="$service@$id "
      mark unit "$service@$id" "$state" "$told"
    fi
  done < <("${MANAGER}_units")
  if [ ! -d "$RELEASES/$1/.release" ]; then return; fi
  for service in $(services_of web) $(services_of worker); do
    case $seen in *" $service@$1 "*) ;; *) mark unit "$service@$1" inactive '' ;; esac
  done
  for service in $(services_of beat); do
    case $seen in *" $service "*) ;; *) mark unit "$service" inactive '' ;; esac
  done
}

survey_fitness() { # BASE MINIMUM_MB FILES...
  local base=$1 minimum=$2 free inodes tool path
  shift 2
  free=$(df -Pk "$base" | awk 'NR == 2 {print $4}')
  inodes=$(df -Pi "$base" | awk 'NR == 2 {print $4}')
  fact disk_free "$((free * 1024))"
  fact inodes_free "$inodes"
  if ((free / 1024 < minimum)); then mark problem "only $((free / 1024)) MB are free under $base, less than $minimum MB" "free some (fab cleanup), or lower minimum_free"; fi
  case $inodes in '' | *[!0-9]* | 0) ;; *) if ((inodes < 20000)); then mark problem "only $inodes inodes are free under $base" "delete some files"; fi ;; esac
  if [ ! -w "$base" ]; then mark problem "$(id -un) may not write in $base" "mkdir -p $DEPLOY_TO && chown $(id -un) $DEPLOY_TO, as root"; fi
  for tool in git python3 flock sha256sum tar timeout; do
    command -v "$tool" >/dev/null || mark problem "$tool is not installed" "apt-get install $tool"
  done
  for path in "$@"; do
    if [ -d "$SHARED/$path" ]; then
      mark problem "$SHARED/$path is a directory and should be a file" "move it away"
    elif [ ! -e "$SHARED/$path" ]; then
      mark problem "$SHARED/$path does not exist" "put it there first; it is never made up (the variables: fab env.push FILE)"
    elif [ ! -r "$SHARED/$path" ]; then
      mark problem "$(id -un) may not read $SHARED/$path" "chgrp $(id -gn) and chmod 640 it"
    fi
  done
  if [ "$MANAGER" = supervisor ]; then supervisor_fitness; fi
  fact python "$(python3 -IS -c 'import platform; print(platform.python_version())' 2>/dev/null)"
  fact cores "$(nproc)"
}

sizes() {
  local id
  for id in $(release_ids); do mark size "$id" "$(du -sk "$RELEASES/$id" 2>/dev/null | cut -f 1)"; done
}

freeze() { # MESSAGE
  mkdir -p "$PRIVATE"
  printf '%s\n' "$1" | write_synced "$PRIVATE/freeze"
}

unfreeze() { rm -f "$PRIVATE/freeze"; }

maintenance() { # on|off MESSAGE   nginx answers 503 with this page while the file is there
  mkdir -p "$PRIVATE" "$SHARED"
  if [ "$1" = on ]; then
    printf '%s' "$2" | write_synced "$SHARED/maintenance.html"
    : >"$PRIVATE/maintenance"
  else
    rm -f "$SHARED/maintenance.html" "$PRIVATE/maintenance"
  fi
}
