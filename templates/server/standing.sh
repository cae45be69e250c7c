# shellcheck shell=bash
# How the backups stand, as facts: how old, whether proven, how the runs of their timers ended. Two questions to systemd
# and the journal of releases; all else is read by bash itself, for `fab status` asks this each time.

survey_backups() {
  local now path name newest='' text
  TZ=UTC0 printf -v now '%(%Y%m%d-%H%M%S)T' -1
  for path in "$DEPLOY_TO/backups/database"/[0-9]*.json; do
    name=${path##*/}
    if [ -f "$path" ] && [[ ! ${name:0:15} > $now ]]; then newest=${path%.json}; fi # later: a clock was wrong
  done
  if [ -n "$newest" ]; then
    fact backup "${newest##*/}"
    text=$(<"$newest.json")
    fact backup_taken "$(json_value taken_at "$text")"
    if [ -f "$newest.drill" ]; then
      text=$(<"$newest.drill")
      fact backup_proven "$(json_value at "$text")"
    fi
  fi
  fact backup_drilled "$(last_drill)"
  fact backup_sent "$(cat "/var/lib/fab-releases/$APPLICATION-offsite-at" 2>/dev/null)"
  fact backup_units "$(backup_units)"
  failed_runs
}

json_value() { # KEY TEXT   of a program of ours: its values have no quotes in them
  [[ $2 =~ \"$1\":\ *\"([^\"]*)\" ]] && printf '%s' "${BASH_REMATCH[1]}"
}

last_drill() { # of any backup
  local path text at='' last=''
  for path in "$DEPLOY_TO/backups/database"/*.drill; do
    [ -f "$path" ] || continue
    text=$(<"$path")
    at=$(json_value at "$text")
    [[ ! $at > $last ]] || last=$at
  done
  printf '%s' "$last"
}

backup_units() { # NAME=STATE ...   an interface of the sandbox there is not
  local service state words=()
  [ "$MANAGER" = systemd ] || return 0
  while IFS=$'\t' read -r service _ state _; do words+=("$service=$state"); done < <(
    systemd_describe "$APPLICATION-backup.timer" "$APPLICATION-backup.service" "$APPLICATION-drill.timer" \
      "$APPLICATION-drill.service" "$APPLICATION-offsite.service" "$APPLICATION-archive.service"
  )
  printf '%s' "${words[*]}"
}

failed_runs() { # the last record of each: systemd forgets them when the server boots
  local line
  while IFS= read -r line; do
    if [[ $line =~ \"unit\":\ \"([a-z]+)\" ]]; then fact "failed_${BASH_REMATCH[1]}" "$line"; fi
  done < <(grep -F '"event": "failed"' "$PRIVATE/journal.jsonl" 2>/dev/null | tail -n 30)
}
