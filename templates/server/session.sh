# shellcheck shell=bash
# shellcheck disable=SC2034  # variables are read by the parts joined to this one
# The one process on a server that a task talks to: it runs what arrives on stdin, holds the lock, and dies with the connection.
#
# stdin:  "run SIZE\n" + SIZE bytes of script | "lock SIZE\n" + SIZE bytes that say who | "unlock\n" | "stop\n" | "kill\n" | "end\n" | "\n" (still there)
# stdout: what scripts print, and lines "\036NONCE<tab>kind<tab>..." that tell of steps, facts and exits.

mark() { # KIND WORD...
  local IFS=$'\t'
  printf '\036%s\t%s\n' "$NONCE" "${*//[$'\n\036']/ }" >&3 || true
}

fact() { # NAME VALUE
  mark fact "$1" "${2//$'\t'/ }"
}

warn() { mark warn "${*//$'\t'/ }"; }

die() { # MESSAGE [HINT]   ends the script; the message becomes the error people see
  mark error "${1//$'\t'/ }" "${2:-}"
  exit 1
}

begin() { # NAME
  STEP=$1 STEP_AT=${EPOCHREALTIME/./}
  mark begin "$1"
}

end() {
  mark end "$STEP" "$((${EPOCHREALTIME/./} - STEP_AT))"
  STEP=
}

work() { # SCRIPT   the outer shell outlives a stop, to report it
  local status=0
  trap : TERM INT HUP PIPE # until here they are ignored: see `session`
  (
    set -euo pipefail
    eval "$1"
  )
  status=$?
  # git, pip and tar each say it in their own words, or not at all.
  if [ "$status" != 0 ] && disk_is_full; then mark error "no room is left on the disk of $DEPLOY_TO" "df -h $DEPLOY_TO; df -i $DEPLOY_TO; fab cleanup"; fi
  mark exit "$status" "$RUNS"
}

disk_is_full() { # less than a MB, or no inode where they are counted
  local path
  path=$(existing_parent "$DEPLOY_TO")
  df -Pk "$path" 2>/dev/null | awk 'NR == 2 && $4 < 1024 {full = 1} END {exit !full}' ||
    df -Pi "$path" 2>/dev/null | awk 'NR == 2 && $2 > 0 && $4 == 0 {full = 1} END {exit !full}'
}

# What must not be left half done: a lost connection or a stop does not reach it. It must be short and bounded.
# The script around it waits for its end before it obeys: an undo must never meet what it undoes.
critical() { # FUNCTION WORD...
  local status stopped=
  mark critical on
  trap 'stopped=143' TERM INT HUP
  set +e
  (
    set -e
    trap '' TERM INT HUP PIPE
    "$@"
  ) >"$PRIVATE/critical.log" 2>&1
  status=$?
  set -e
  trap - TERM INT HUP
  cat "$PRIVATE/critical.log" || true
  mark critical off
  [ -z "$stopped" ] || exit "$stopped"
  return "$status"
}

take_lock() { # WHO
  if [ "$EUID" = 0 ]; then take_lock_as_root "$1"; else take_own_lock "$1"; fi
}

take_own_lock() { # WHO
  mkdir -p "$PRIVATE" 2>/dev/null || {
    mark lock failed "cannot create $PRIVATE: $(id -un) may not write in $(existing_parent "$PRIVATE")"
    return
  }
  if [ -e "$PRIVATE/lock" ] && [ ! -w "$PRIVATE/lock" ]; then
    mark lock failed "$PRIVATE belongs to $(stat -c %U "$PRIVATE/lock"), and $(id -un) may not write in it"
    return
  fi
  if held_by_root; then
    tell_holder
    return
  fi
  if [ -e "$PRIVATE/lock" ] && [ ! -f "$PRIVATE/lock" ]; then # to open a FIFO is to wait for somebody at its other end
    mark lock failed "$PRIVATE/lock is not a regular file; move it away"
    return
  fi
  # Children inherit descriptor 9: the lock is held exactly as long as anything of this run lives.
  exec 9>>"$PRIVATE/lock"
  chmod 600 "$PRIVATE/lock" # whoever may read it may hold it, for ever
  if flock -n 9 && ! held_by_root; then
    printf '%s\n' "$1" | tee "$PRIVATE/lock.$$" >/dev/null && cat "$PRIVATE/lock.$$" >"$PRIVATE/lock" && rm -f "$PRIVATE/lock.$$"
    LOCKED=$PRIVATE/lock
    mark lock taken
  else
    exec 9>&-
    tell_holder
  fi
}

tell_holder() {
  sleep 0.2 # a holder of this very moment has not said who it is: what is there names the one before
  if held_by_root; then
    mark lock busy "$(tr '\n\t' '  ' <"$ROOT_LOCK" 2>/dev/null)"
  else
    mark lock busy "$(tr '\n\t' '  ' <"$PRIVATE/lock" 2>/dev/null)"
  fi
}

held_by_root() { [ -r "$ROOT_LOCK" ] && ! flock -n -s "$ROOT_LOCK" true 2>/dev/null; }

# Root opens and writes nothing by name in a folder that is the account's: its own lock is where only root writes, and
# the account's is opened by what looks at it first (tasks/server/agent/lock.py), without writing.
take_lock_as_root() { # WHO
  local pid='' number='' answer='' end
  if [ ! -x "${SERVER_PYTHON:-/usr/bin/python3}" ]; then # nothing of ours was ever here: it needs Python
    take_both_locks "$1" ''
    return
  fi
  coproc LENDER { server_process "$(server_folder)" agent.lock.lend 3>/dev/null; } # what it returns is no later run's
  end=${LENDER[1]}
  printf '%s\n%s\n%s\n' "$NONCE" "$SITE" '{"arguments":{}}' >&"$end"
  IFS= read -r -t 30 answer <&"${LENDER[0]}" || true
  read -r pid number <<<"$answer"
  case $answer in
    ours) take_own_lock "$1" ;;
    none) take_both_locks "$1" '' ;;
    [0-9]*' '[0-9]*) take_both_locks "$1" "/proc/$pid/fd/$number" ;;
    'refused '*) mark lock failed "${answer#refused }" ;;
    *) mark lock failed "the lock $PRIVATE/lock could not be looked at" ;;
  esac
  exec {end}>&-
}

take_both_locks() { # WHO OTHER   OTHER: the account's, open in the lender; "" where its folder is not
  local owner
  mkdir -p "${ROOT_LOCK%/*}" && exec 9>>"$ROOT_LOCK"
  # Whoever may read it may hold it, for ever: only the account that deploys has to look.
  owner=$(stat -c %U "$PRIVATE" 2>/dev/null || true)
  chgrp "$(id -gn "${owner:-root}" 2>/dev/null || echo root)" "$ROOT_LOCK"
  chmod 640 "$ROOT_LOCK"
  if ! flock -n 9; then
    exec 9>&-
    sleep 0.2
    mark lock busy "$(tr '\n\t' '  ' <"$ROOT_LOCK")"
    return
  fi
  printf '%s\n' "$1" >"$ROOT_LOCK"
  if [ -n "$2" ]; then exec 8<"$2"; fi
  if [ -z "$2" ] || flock -n 8; then
    LOCKED=$ROOT_LOCK
    mark lock taken
  else
    sleep 0.2
    mark lock busy "$(head -c 500 <&8 | tr '\n\t' '  ')"
    exec 8<&- 9>&-
  fi
}

existing_parent() {
  local path=$1
  until [ -d "$path" ]; do path=$(dirname "$path"); done
  printf '%s' "$path"
}

lock_is_ours() { [ -z "$LOCKED" ] || [ /proc/self/fd/9 -ef "$LOCKED" ]; }

has_bytes() { # SIZE TEXT
  local LC_ALL=C
  [ "${#2}" = "$1" ]
}

working() { [ -n "$JOB" ] && kill -0 "$JOB" 2>/dev/null; }

stop_job() { # twice: it may have been too young to hear the first
  kill -TERM -- "-$JOB"
  sleep 0.2
  kill -TERM -- "-$JOB"
}

leave() {
  local tries
  if working; then
    [ -z "$LOCKED" ] || printf 'finishing: its operator is gone\n' >&9
    stop_job
    for ((tries = 0; tries < 900; tries++)); do
      working || break
      sleep 0.1
    done
    ! working || kill -KILL -- "-$JOB" 2>/dev/null
  fi
  exit 0
}

session() { # NONCE DEPLOY_TO RUN APPLICATION MANAGER LEASE PORT SERVICE=KIND...
  NONCE=$1 DEPLOY_TO=$2 RUN=$3 APPLICATION=$4 MANAGER=$5 PORT=$7
  local lease=$6 verb size body
  SERVICES=("${@:8}")
  PRIVATE=$DEPLOY_TO/.releases RELEASES=$DEPLOY_TO/releases STAGING=$DEPLOY_TO/staging SHARED=$DEPLOY_TO/shared
  ENVIRONMENTS=$DEPLOY_TO/environments ROOT_LOCK=/run/fab-releases/${DEPLOY_TO//\//%}.lock
  LOCKED='' JOB='' STEP='' RUNS=0
  exec 3>&1 2>/dev/null # bash's own words about jobs are nobody's output
  umask 022
  trap : PIPE
  set -m # each script gets a process group of its own, so that a stop reaches all of it
  mark hello "$BASH_VERSION"
  while IFS=' ' read -r -t "$lease" verb size; do
    body=
    case $size in '' | *[!0-9]*) ;; *)
      body=$(head -c "$size"; printf .)
      body=${body%.}
      has_bytes "$size" "$body" || break # half a script is never run
      ;;
    esac
    case $verb in
      run)
        RUNS=$((RUNS + 1))
        if lock_is_ours; then
          trap '' TERM INT HUP PIPE # a stop must not end it before it can report
          work "$body" </dev/null >&3 2>&1 &
          JOB=$!
          trap - TERM INT HUP
          trap : PIPE
        else
          mark error "the lock file was removed while this run held it" "look who did; then run it again"
          mark exit 76 "$RUNS"
        fi
        ;;
      lock) take_lock "$body" ;;
      unlock) exec 8>&- 9>&- && LOCKED= ;;
      stop) if working; then stop_job; fi ;;
      kill) if working; then kill -KILL -- "-$JOB" 2>/dev/null; mark exit 137 "$RUNS"; fi ;;
      end) break ;;
    esac
  done
  leave
}
