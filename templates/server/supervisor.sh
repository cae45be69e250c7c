# shellcheck shell=bash
# Services under supervisord, as a plain user on this machine: the sandbox. A relay stands where nginx stands on a server.

supervisor_ctl() { "$TOOLS/supervisorctl" -c "$PRIVATE/supervisor/supervisord.conf" "$@"; }

supervisor_prepare() {
  local dir=$PRIVATE/supervisor
  mkdir -p "$dir/programs" "$dir/logs"
  mkdir -m 700 "$RUN" 2>/dev/null || { [ -O "$RUN" ] && [ ! -L "$RUN" ]; } || die "$RUN belongs to somebody else" "remove it, or deploy to another folder"
  if supervisor_runs; then return; fi
  if ! python3 -IS -c 'import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))' "$PORT" 2>/dev/null; then
    die "port $PORT on 127.0.0.1 is taken" "stop what listens there, or choose another: port in [stages.sandbox] of releases.toml, or FAB_RELEASES_PORT=8001 fab deploy"
  fi
  printf '%s' "$SUPERVISOR_CONF" >"$dir/supervisord.conf"
  printf '%s' "$RELAY_PROGRAM" >"$dir/relay.py"
  rm -f "$RUN"/*.sock* "$dir/programs/"*.conf
  (exec 9>&- 3>&- </dev/null >"$dir/logs/start.log" 2>&1; cd / && setsid "$TOOLS/supervisord" -c "$dir/supervisord.conf")
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    if supervisor_runs; then return; fi
    sleep 0.05
  done
  cat "$dir/logs/start.log"
  die "supervisord does not start" "its last lines are above"
}

supervisor_runs() {
  local pid
  pid=$(cat "$RUN/supervisord.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && [ -S "$RUN/supervisor.sock" ]
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

supervisor_log() { tail -n 25 "$PRIVATE/supervisor/logs/$1-$2.log" 2>/dev/null || true; }

supervisor_ids() {
  local path
  supervisor_runs || return 0
  for path in "$PRIVATE"/supervisor/programs/*.conf; do
    [ -f "$path" ] || continue
    path=${path##*/}
    path=${path%.conf}
    printf '%s\n' "${path#*-}"
  done
}

supervisor_shutdown() {
  supervisor_runs || return 0
  supervisor_ctl shutdown >/dev/null
  local tries
  for ((tries = 0; tries < 400; tries++)); do
    [ -S "$RUN/supervisor.sock" ] || break
    sleep 0.05
  done
  rm -f "$RUN"/*.sock*
}
