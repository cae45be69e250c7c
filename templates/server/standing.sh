# shellcheck shell=bash
# How the backups stand, as facts: how old, whether proven, how the runs of their timers ended. Two questions to systemd
# and the journal of releases; all else is read by bash itself, for `fab status` asks this each time.

survey_backups() {
  local now path name newest='' VALUE='' drilled='' top=0
  TZ=UTC0 printf -v now '%(%Y%m%d-%H%M%S)T' -1
  for path in "$DEPLOY_TO/backups/database"/[0-9]*.json; do
    name=${path##*/}
    read_value sequence "$path"
    if [ -n "$VALUE" ]; then
      if ((VALUE > top)); then top=$VALUE newest=${path%.json}; fi
    elif [ "$top" = 0 ] && [ -f "$path" ] && [[ ! ${name:0:15} > $now ]]; then
      newest=${path%.json} # of older programs; later than now: a clock was wrong
    fi
  done
  if [ -n "$newest" ]; then
    fact backup "${newest##*/}"
    read_value taken_at "$newest.json"
    fact backup_taken "$VALUE"
    read_value leaves_out "$newest.json"
    fact backup_left_out "$VALUE"
    read_value at "$newest.drill"
    fact backup_proven "$VALUE"
    fact backup_remarks "$(remarks_of "$newest.json")"
  fi
  for path in "$DEPLOY_TO/backups/database"/*.drill; do
    read_value at "$path"
    [[ ! $VALUE > $drilled ]] || drilled=$VALUE
  done
  fact backup_drilled "$drilled"
  survey_runs "$PRIVATE/journal.jsonl"
}

remarks_of() { # MANIFEST   what it does not hold, as JSON
  python3 -IS -c 'import json, sys
print(json.dumps(json.load(open(sys.argv[1])).get("remarks", [])))' "$1" 2>/dev/null || true
}

# Of a host that has the database and no releases: what it sends away by itself.
survey_apart() { survey_runs "/var/lib/fab-releases/$APPLICATION-journal.jsonl"; }

copy_outcome() { cat "/var/lib/fab-releases/$APPLICATION-offsite.json" 2>/dev/null || true; } # JSON; "" where none ran

survey_runs() { # JOURNAL
  local sent=''
  read -r sent 2>/dev/null <"/var/lib/fab-releases/$APPLICATION-offsite-at" || true
  fact backup_sent "$sent"
  fact backup_copied "$(copy_outcome)"
  fact backup_units "$(backup_units)"
  failed_runs "$1"
}

read_value() { # KEY FILE   -> VALUE; of a program of ours: its values have no quotes in them
  local text=
  VALUE=
  [ ! -f "$2" ] || IFS= read -r -d '' text <"$2" || true # without a process of its own
  [[ ! $text =~ \"$1\":\ *(\"([^\"]*)\"|([0-9.]+)) ]] || VALUE=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
}

backup_units() { # NAME=STATE ...   in a sandbox nothing runs by itself
  local service state words=()
  [ "$MANAGER" = systemd ] || return 0
  while IFS=$'\t' read -r service _ state _; do words+=("$service=$state"); done < <(
    systemd_describe "$APPLICATION-backup.timer" "$APPLICATION-backup.service" "$APPLICATION-drill.timer" \
      "$APPLICATION-drill.service" "$APPLICATION-offsite.service" "$APPLICATION-offsite.timer" "$APPLICATION-archive.service"
  )
  printf '%s' "${words[*]}"
}

failed_runs() { # JOURNAL   the last record of each: systemd forgets them when the server boots
  local line
  while IFS= read -r line; do
    if [[ $line =~ \"unit\":\ \"([a-z]+)\" ]]; then fact "failed_${BASH_REMATCH[1]}" "$line"; fi
  done < <(grep -F '"event": "failed"' "$1" 2>/dev/null | tail -n 30)
}
