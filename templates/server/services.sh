# shellcheck shell=bash
# shellcheck disable=SC2046  # names of services have no spaces
# Services of a release, whatever keeps them running: each release has its own, and the rename of `current` chooses.
# A manager is a set of functions: MANAGER_{start,stop,restart,state,told,units,log,logs,ids,prepare,shutdown}.

kind_of() { # SERVICE
  local pair
  for pair in "${SERVICES[@]}"; do
    if [ "${pair%%=*}" = "$1" ]; then printf '%s' "${pair#*=}"; fi
  done
}

services_of() { # KIND
  local pair
  for pair in "${SERVICES[@]}"; do
    if [ "${pair#*=}" = "$1" ]; then printf '%s\n' "${pair%%=*}"; fi
  done
}

start() { # ID SERVICE...   asks only; `await` says how it went
  local id=$1 service
  shift
  "${MANAGER}_prepare"
  for service in "$@"; do "${MANAGER}_start" "$service" "$id"; done
}

# Ready means that it said so. Restarting, failed or gone before that: its last lines are the answer.
await() { # ID SERVICE SECONDS SETTLE
  local id=$1 service=$2 deadline=$((SECONDS + $3)) settle=$4 since='' state
  while :; do
    state=$("${MANAGER}_state" "$service" "$id")
    case $state in
      active)
        if [ "$settle" = 0 ]; then break; fi
        since=${since:-$EPOCHSECONDS}
        if ((EPOCHSECONDS - since >= settle)); then break; fi
        ;;
      draining) # its own last generation still finishes, the start is queued behind it; tasks in hand may take an hour
        if [ "$(kind_of "$service")" = worker ]; then break; fi
        ;;
      failed | restarting | gone)
        not_well "$id" "$service" "does not start" "its last lines are above; nothing was switched"
        ;;
    esac
    if ((SECONDS >= deadline)); then
      not_well "$id" "$service" "is not ready after $3 s" "is it waiting for something? see its lines above, or raise [health] deadline"
    fi
    sleep 0.1 # each look costs the starting release some 15 ms of the same processors
  done
  fact "$service" "$("${MANAGER}_told" "$service" "$id")"
}

not_well() { # ID SERVICE WHAT HINT   ends with the reason that its last lines give, where they give one
  local lines reason hint=$4
  lines=$("${MANAGER}_log" "$2" "$1")
  printf '%s\n' "$lines"
  reason=$(grep -oE "\[Errno (13|30)\] .*/$1/.*" <<<"$lines" | tail -n 1) || true
  if [ -n "$reason" ]; then
    hint="a release is read-only to its services: name that folder in shared_dirs in releases.toml, or log to the console"
  else
    reason=$(grep -oE '^[A-Za-z_][A-Za-z0-9_.]*(Error|Exception|Mismatch|Configured): .*' <<<"$lines" | tail -n 1) || true
  fi
  die "$2 of release $1 $3${reason:+: $reason}" "$hint"
}

# Web generations: only when nobody waits in the queue of their socket. Workers: told to finish, not waited for.
stop_generation() { # ID SERVICE...
  local id=$1 service
  shift
  for service in "$@"; do
    if [ "$(kind_of "$service")" = web ]; then queue_empty "$RUN/$id.sock"; fi
    "${MANAGER}_stop" "$service" "$id" || {
      [ -z "$(kind_of "$service")" ] || return 1
      warn "$service of release $id is not in releases.toml any more and could not be stopped"
    }
  done
}

# What of a generation runs, also what this host or releases.toml no longer has: it would run old code for ever.
services_running() { # ID
  local service
  for service in $("${MANAGER}_services" "$1"); do
    [ "$(kind_of "$service")" = beat ] || printf '%s\n' "$service"
  done
}

queue_empty() { # SOCKET   three looks in a row with no connection waiting, at the most 10 s
  local quiet=0 tries waiting
  command -v ss >/dev/null || { sleep 0.5; return 0; }
  for ((tries = 0; tries < 200; tries++)); do
    waiting=$(ss -xlH src "$1" 2>/dev/null | awk '{print $3; exit}')
    if [ "${waiting:-0}" = 0 ]; then quiet=$((quiet + 1)); else quiet=0; fi
    if [ "$quiet" -ge 3 ]; then return 0; fi
    sleep 0.05
  done
}

hand_over() { # the one beat follows `current`
  local service
  for service in $(services_of beat); do "${MANAGER}_restart" "$service"; done
}

await_beat() { # SERVICE   it was only asked to restart
  local id=''
  [ "$MANAGER" = systemd ] || id=$(current_id)
  await "$id" "$1" 30 0
}

retire() { # KEEP_WARM_ID   stops every generation that is not live; of the warm one, everything but web
  local id current
  current=$(current_id)
  for id in $(running_ids); do
    if [ "$id" = "$current" ]; then continue; fi
    if [ "$id" = "$1" ]; then
      : >"$RELEASES/$id/.release/warm"
      stop_generation "$id" $(services_of worker)
    else
      rm -f "$RELEASES/$id/.release/warm"
      stop_generation "$id" $(services_running "$id")
    fi
  done
}

stop_strays() { # CURRENT   what an interrupted run started and never switched to, or switched from and never retired
  local id found=''
  for id in $(running_ids); do
    if [ "$id" = "$1" ] || [ -e "$RELEASES/$id/.release/warm" ]; then continue; fi
    stop_generation "$id" $(services_running "$id")
    found=yes
  done
  # Who did not come so far has perhaps not handed over beat either.
  if [ -n "$found" ] && [ -n "$1" ]; then hand_over; fi
}

running_ids() { "${MANAGER}_ids" | sort -u; }

services_started() { # ID   starts what of it does not run
  local id=$1 service
  "${MANAGER}_prepare"
  for service in $(services_of web) $(services_of worker); do
    case $("${MANAGER}_state" "$service" "$id") in
      active | starting | draining) ;;
      *)
        "${MANAGER}_start" "$service" "$id"
        [ "$(kind_of "$service")" != web ] || await "$id" "$service" 90 0
        ;;
    esac
  done
  for service in $(services_of beat); do
    case $("${MANAGER}_state" "$service" '') in active | starting) ;; *) "${MANAGER}_restart" "$service" ;; esac
  done
}

stop_all() {
  local id
  for id in $(running_ids); do
    stop_generation "$id" $(services_running "$id")
  done
  "${MANAGER}_shutdown"
}

# Asks until it is well or the deadline is over. The request comes by stdin: its headers are nobody's to see in `ps`. The words of the answer are a fact, and the reason of a failure.
probe() { # ID REQUEST_JSON
  local said status=0
  said=$(printf '%s' "$2" | python3 -IS "$RELEASES/$1/.release/probe.py" -) || status=$?
  fact probe "$said"
  PROBED=$(sed -n 's/.*"detail": "\(.*\)".*/\1/p' <<<"$said" | sed 's/\\\(["\\]\)/\1/g')
  [ "$status" = 0 ] || printf 'not well: %s\n' "$said"
  return "$status"
}

healthy() { # ID REQUEST_JSON
  probe "$1" "$2" || {
    local service
    for service in $(services_of web); do "${MANAGER}_log" "$service" "$1"; done
    die "release $1 is not well on its private socket${PROBED:+: $PROBED}" "users never saw it; the last lines of its services are above"
  }
}

# Every queue that this release can send to must be consumed by somebody, or its tasks wait for ever.
queues_served() { # ID ALONE SERVICE...   ALONE: no other host has workers, so that a missing consumer is certain
  local id=$1 alone=$2 service told consumed=, routed='' queue missing=''
  shift 2
  for service in "$@"; do
    told=$("${MANAGER}_told" "$service" "$id")
    consumed+=$(sed -n 's/.*queues=\([^ ]*\).*/\1/p' <<<"$told"),
    routed+=,$(sed -n 's/.*routed=\([^ ]*\).*/\1/p' <<<"$told")
  done
  for queue in ${routed//,/ }; do
    case $consumed in *",$queue,"*) ;; *) missing+=" $queue" ;; esac
  done
  if [ -z "$missing" ]; then return; fi
  fact unconsumed "${missing# }"
  [ -z "$alone" ] || die "tasks are sent to a queue that no worker consumes:$missing" "add it to queues of a worker in releases.toml"
  warn "no worker on this host consumes:$missing"
}

# The same migrations as the live release and the same packages: no schema to wait for, both generations may work.
start_if_schema_is_same() { # ID SERVICE...
  local current
  current=$(current_id)
  [ -n "$current" ] || return 0
  if cmp -s "$RELEASES/$1/.release/migrations.key" "$RELEASES/$current/.release/migrations.key" &&
    cmp -s "$RELEASES/$1/.release/lock.key" "$RELEASES/$current/.release/lock.key"; then
    start "$@"
  fi
}
