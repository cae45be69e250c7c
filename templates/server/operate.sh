# shellcheck shell=bash
# What an operator asks for between deploys.

logs() { # SERVICE LINES FOLLOW   "" is every service of this host
  local service=$1 lines=$2 follow=$3 names=() pair
  if [ "$service" = nginx ]; then
    exec tail -n "$lines" ${follow:+-F} "/var/log/nginx/$APPLICATION.access.log" "/var/log/nginx/$APPLICATION.error.log"
  fi
  case $MANAGER/$service in systemd/backup | systemd/drill | systemd/offsite | systemd/archive) # what timers run
    exec journalctl --no-pager --quiet --lines="$lines" ${follow:+--follow} --unit "$APPLICATION-$service.service" ;;
  esac
  for pair in "${SERVICES[@]}"; do
    if [ -z "$service" ] || [ "${pair%%=*}" = "$service" ] || [ "${pair#*=}" = "$service" ]; then names+=("${pair%%=*}"); fi
  done
  [ "${#names[@]}" -gt 0 ] || die "there is no service $service here" "one of: ${SERVICES[*]%%=*} nginx"
  "${MANAGER}_logs" "$lines" "$follow" "${names[@]}"
}

systemd_logs() { # LINES FOLLOW SERVICE...
  local lines=$1 follow=$2 words=() name id
  shift 2
  id=$(current_id)
  for name in "$@"; do
    if [ "$(kind_of "$name")" = beat ]; then words+=(--unit "$(unit "$name" '')"); else words+=(--unit "$(unit "$name" "$id")"); fi
  done
  exec journalctl --no-pager --quiet --lines="$lines" ${follow:+--follow} "${words[@]}"
}

supervisor_logs() { # LINES FOLLOW SERVICE...
  local lines=$1 follow=$2 paths=() name
  shift 2
  for name in "$@"; do paths+=("$PRIVATE/supervisor/logs/$name-$(current_id).log"); done
  exec tail -n "$lines" ${follow:+-F} "${paths[@]}"
}

pin() { # ID on|off
  [ -d "$RELEASES/$1" ] || die "there is no release $1" "fab releases"
  if [ "$2" = on ]; then : >"$RELEASES/$1/.release/pinned"; else rm -f "$RELEASES/$1/.release/pinned"; fi
}

collect_garbage() {
  [ ! -d "$DEPLOY_TO/repo.git" ] || git -C "$DEPLOY_TO/repo.git" -c gc.autoDetach=false gc --quiet
}

start_all() {
  local current
  current=$(current_id)
  [ -n "$current" ] || die "nothing is live here" "fab deploy"
  services_started "$current"
}
