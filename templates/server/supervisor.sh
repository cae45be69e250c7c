# shellcheck shell=bash
# Services under supervisord, as a plain user on this machine: the sandbox. A relay stands where nginx stands on a server.

supervisor_ctl() { "$TOOLS/supervisorctl" -c "$PRIVATE/supervisor/supervisord.conf" "$@"; }

supervisor_folder() {
  mkdir -m 700 "$RUN" 2>/dev/null || { [ -O "$RUN" ] && [ ! -L "$RUN" ]; } || die "$RUN belongs to somebody else" "remove it, or deploy to another folder"
}

supervisor_prepare() {
  local dir=$PRIVATE/supervisor tries
  mkdir -p "$dir/programs" "$dir/logs"
  [ -e "$DEPLOY_TO/.gitignore" ] || echo '*' >"$DEPLOY_TO/.gitignore" # it lies in a checkout, and holds a secret
  supervisor_folder
  if supervisor_runs && supervisor_is_as_configured; then return; fi
  supervisor_port_is_free || supervisor_runs_here || die "port $PORT on 127.0.0.1 is taken" "$(supervisor_other_port)"
  supervisor_shutdown
  supervisor_folder
  printf '%s' "$SUPERVISOR_CONF" >"$dir/supervisord.conf"
  printf '%s' "$RELAY_PROGRAM" >"$dir/relay.py"
  rm -f "$dir/programs/"*.conf
  (exec 9>&- 3>&- </dev/null >"$dir/logs/start.log" 2>&1; cd / && setsid "$TOOLS/supervisord" -c "$dir/supervisord.conf")
  for ((tries = 0; tries < 100; tries++)); do
    if supervisor_runs; then return; fi
    sleep 0.05
  done
  cat "$dir/logs/start.log"
  die "supervisord does not start" "its last lines are above"
}

supervisor_runs() {
  local pid
  pid=$(cat "$RUN/supervisord.pid" 2>/dev/null) && grep -qs supervisord "/proc/$pid/cmdline" && [ -S "$RUN/supervisor.sock" ]
}

# Another port, another version of us, or a folder that was deleted under it: then it is started again.
supervisor_is_as_configured() {
  local dir=$PRIVATE/supervisor
  printf '%s' "$SUPERVISOR_CONF" | cmp -s - "$dir/supervisord.conf" && printf '%s' "$RELAY_PROGRAM" | cmp -s - "$dir/relay.py"
}

supervisor_port_is_free() {
  python3 -IS -c 'import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))' "$PORT" 2>/dev/null
}

supervisor_relay() { # "PID FOLDER" of the sandbox, whosever it is, that listens at our port
  local file words
  for file in /proc/[0-9]*/cmdline; do
    words=()
    mapfile -d '' -t words 2>/dev/null <"$file" || continue
    if [ "${#words[@]}" = 5 ] && [[ ${words[2]} == */.releases/supervisor/relay.py ]] && [ "${words[3]}" = "$PORT" ]; then
      file=${file#/proc/}
      printf '%s %s' "${file%/*}" "${words[4]}"
      return
    fi
  done 2>/dev/null
}

supervisor_runs_here() { [[ $(supervisor_relay) == *" $DEPLOY_TO" ]]; }

supervisor_other_port() { printf 'stop what listens there, or choose another port in [stages.sandbox] of releases.toml'; }

supervisor_fitness() {
  local pid folder owner
  owner=$(stat -c %U "$DEPLOY_TO" 2>/dev/null || id -un)
  if [ "$owner" != "$(id -un)" ]; then
    mark problem "$DEPLOY_TO belongs to $owner, and you are $(id -un)" "run this as $owner, or delete the folder"
    return
  fi
  if supervisor_runs; then
    if supervisor_is_as_configured; then return; fi
    mark unit relay outdated ''
  fi
  if supervisor_port_is_free || supervisor_runs_here; then return; fi
  read -r pid folder < <(supervisor_relay; echo) || true
  if [ -z "$folder" ]; then
    mark problem "port $PORT on 127.0.0.1 is taken" "$(supervisor_other_port)"
  elif [ -d "$folder" ]; then
    mark problem "port $PORT on 127.0.0.1 is taken by the sandbox in $folder" "\`fab stop\` there, or choose another port in [stages.sandbox] of releases.toml"
  else
    mark problem "port $PORT on 127.0.0.1 is taken by the sandbox of $folder, which is gone" "kill $(ps -o ppid= -p "$pid" 2>/dev/null | tr -d ' ') ends it"
  fi
}

supervisor_start() { # SERVICE ID
  local name=$1-$2 root=$RELEASES/$2
  rm -f "$RUN/$2.sock.ready"
  cat >"$PRIVATE/supervisor/programs/$name.conf" <<CONF
[program:$name]
command=$(command -v python3) -IS $root/.release/launch.py run $1
directory=$root
autorestart=unexpected
startsecs=1
startretries=3
stopasgroup=false
killasgroup=true
stopwaitsecs=40
stdout_logfile=$PRIVATE/supervisor/logs/$name.log
stdout_logfile_maxbytes=5MB
redirect_stderr=true
CONF
  supervisor_ctl update "$name" >/dev/null
}

supervisor_restart() { # beat: one program that follows current
  supervisor_ctl stop "$1-$(current_id)" >/dev/null 2>&1 || true
  supervisor_start "$1" "$(current_id)"
}

supervisor_stop() { # SERVICE ID
  local name=$1-$2
  [ -f "$PRIVATE/supervisor/programs/$name.conf" ] || return 0
  rm -f "$PRIVATE/supervisor/programs/$name.conf"
  if supervisor_runs; then supervisor_ctl update "$name" >/dev/null; fi
  rm -f "$RUN/$2.sock" "$RUN/$2.sock.ready"
}

supervisor_state() { # SERVICE ID   ready is what the program itself says, by its socket
  local line
  if ! supervisor_runs; then printf inactive; return; fi
  line=$(supervisor_ctl status "$1-$2" 2>/dev/null || true)
  case $line in
    *RUNNING* | *STARTING*)
      if [ -e "$RUN/$2.sock.ready" ] || { [ "$(kind_of "$1")" != web ] && [[ $line == *RUNNING* ]]; }; then printf active; else printf starting; fi
      ;;
    *BACKOFF*) printf restarting ;;
    *FATAL* | *EXITED*) printf failed ;;
    *) printf inactive ;;
  esac
}

# The sandbox has no operator to write its variables: a first set with a secret of its own, never overwritten.
seed_file() { # FILE TEXT
  mkdir -p "$(dirname "$SHARED/$1")"
  [ -e "$SHARED/$1" ] || (umask 077 && printf '%s' "$2" >"$SHARED/$1")
}

supervisor_told() { :; }

supervisor_units() {
  local id service current
  current=$(current_id)
  for id in $(supervisor_ids | sort -u); do
    for service in $(services_of web) $(services_of worker); do
      printf '%s\t%s\t%s\t\n' "$service" "$id" "$(supervisor_state "$service" "$id")"
    done
  done
  for service in $(services_of beat); do printf '%s\t-\t%s\t\n' "$service" "$(supervisor_state "$service" "$current")"; done
}

supervisor_log() { tail -n 25 "$PRIVATE/supervisor/logs/$1-$2.log" 2>/dev/null || true; }

supervisor_services() { # ID
  local path
  for path in "$PRIVATE/supervisor/programs/"*"-$1.conf"; do
    [ -f "$path" ] || continue
    path=${path##*/}
    printf '%s\n' "${path%"-$1.conf"}"
  done
}

supervisor_ids() {
  local path
  supervisor_runs || return 0
  for path in "$PRIVATE"/supervisor/programs/*.conf; do
    if [[ $path =~ ([0-9]{8}-[0-9]{6}-[0-9a-f]{7})\.conf$ ]]; then printf '%s\n' "${BASH_REMATCH[1]}"; fi # names have dashes, too
  done
}

# By its process id: its files may be gone. What it left when it was killed goes as well.
supervisor_shutdown() {
  local pid file tries
  if supervisor_runs; then
    pid=$(cat "$RUN/supervisord.pid")
    kill "$pid"
    for ((tries = 0; tries < 1200; tries++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
  fi
  for file in /proc/[0-9]*/environ; do
    if [ -O "$file" ] && grep -qsxz "SUPERVISOR_SERVER_URL=unix://$RUN/supervisor.sock" "$file"; then
      file=${file#/proc/}
      kill "${file%/*}" 2>/dev/null || true
    fi
  done
  for ((tries = 0; tries < 100; tries++)); do
    if ! supervisor_runs_here; then break; fi
    sleep 0.05
  done
  rm -rf "${RUN:?}"
}
