# shellcheck shell=bash
# Services under systemd: template units whose instance is the release (templates/systemd). A pattern of names also meets
# units of other applications (`shop-*` those of `shop-admin`): ours are those that work in our folder.

systemctl_as_root() { # WORD...   by root's own program, which looks at every word (tasks/server/installed/systemctl.py)
  local program=/usr/local/lib/fab-releases/$APPLICATION-systemctl
  [ -x "$program" ] || program=/usr/bin/systemctl # provisioned before there was one: sudo looks at the words
  if [ "$EUID" = 0 ]; then /usr/bin/systemctl "$@"; else sudo -n "$program" "$@"; fi
}

unit() { # SERVICE ID
  if [ -n "$2" ]; then printf '%s-%s@%s.service' "$APPLICATION" "$1" "$2"; else printf '%s-%s.service' "$APPLICATION" "$1"; fi
}

systemd_prepare() { :; }

systemd_start() { systemctl_as_root start --no-block "$(unit "$1" "$2")"; }

systemd_restart() { systemctl_as_root restart --no-block "$(unit "$1" '')"; }

systemd_stop() { # SERVICE ID
  local kind
  kind=$(kind_of "$1")
  if [ "$kind" = web ] || { [ -z "$kind" ] && systemctl is-active --quiet "$APPLICATION-$1@$2.socket"; }; then
    systemctl_as_root stop --no-block "$(unit "$1" "$2")" "$APPLICATION-$1@$2.socket"
  else
    systemctl_as_root stop --no-block "$(unit "$1" "$2")"
  fi
}

# Asked again and again while a release starts, on processors that it needs: as few processes as can be.
systemd_describe() { # UNIT_OR_PATTERN...   -> SERVICE ID STATE TOLD, tab-separated, a line each, in one question
  local key value id='' active='' sub='' restarts=0 result='' told='' folder='' instance
  while IFS='=' read -r key value; do
    case $key in
      Id) id=${value#"$APPLICATION-"} id=${id%.service} ;;
      ActiveState) active=$value ;;
      SubState) sub=$value ;;
      NRestarts) restarts=$value ;;
      Result) result=$value ;;
      StatusText) told=$value ;;
      WorkingDirectory) folder=$value ;;
      '')
        [ -n "$id" ] || continue
        case $folder/ in / | "$DEPLOY_TO"/*) ;; *) # of another application
          id='' told='' restarts=0 folder=''
          continue
          ;;
        esac
        case $id in *@*) instance=${id#*@} ;; *) instance=- ;; esac
        printf '%s\t%s\t' "${id%%@*}" "$instance"
        systemd_word "$active/$sub" "$restarts" "$result"
        printf '\t%s\n' "$told"
        id='' told='' restarts=0 folder=''
        ;;
    esac
  done < <(systemctl show -p Id,ActiveState,SubState,NRestarts,Result,StatusText,WorkingDirectory "$@"; echo)
}

systemd_word() { # ACTIVE/SUB RESTARTS RESULT
  case $1 in
    active/*) printf active ;;
    deactivating/*) printf draining ;;
    activating/auto-restart) printf restarting ;;
    activating/*) if [ "$2" -gt 0 ]; then printf restarting; else printf starting; fi ;;
    failed/*) printf failed ;;
    inactive/*) if [ "$3" = success ]; then printf inactive; else printf failed; fi ;;
    *) printf '%s' "${1%%/*}" ;;
  esac
}

systemd_units() {
  local words=("$APPLICATION-*@[0-9]*.service") service # not failed@UNIT
  for service in $(services_of beat); do words+=("$(unit "$service" '')"); done
  systemd_describe "${words[@]}"
}

systemd_state() { # SERVICE ID
  local state=''
  IFS=$'\t' read -r _ _ state _ < <(systemd_describe "$(unit "$1" "$2")") || true
  printf '%s' "$state"
}

systemd_told() { # SERVICE ID
  local told=''
  IFS=$'\t' read -r _ _ _ told < <(systemd_describe "$(unit "$1" "$2")") || true
  printf '%s' "$told"
}

said_by() { # UNIT   last lines of its own processes: what systemd says of them would push the reason out of sight
  journalctl --no-pager --quiet --output=cat --lines=5 _SYSTEMD_UNIT="$1" 2>/dev/null || true
}

systemd_log() { journalctl --no-pager --quiet --output=cat --lines=200 --unit "$(unit "$1" "$2")" 2>/dev/null || true; }

systemd_running() { # INSTANCE   -> SERVICE ID of what runs of ours, a socket by where it listens
  systemctl show -p Id,ActiveState,WorkingDirectory,Listen "$APPLICATION-*@$1.service" "$APPLICATION-*@$1.socket" |
    awk -v RS= -F '\n' -v ours="$DEPLOY_TO/releases/" -v sockets="$RUN/" -v cut="$((${#APPLICATION} + 2))" '{
      split("", told)
      for (i = 1; i <= NF; i++) told[substr($i, 1, index($i, "=") - 1)] = substr($i, index($i, "=") + 1)
      name = substr(told["Id"], cut); service = name; id = name
      sub(/@.*/, "", service); sub(/^[^@]*@/, "", id); sub(/\.[a-z]*$/, "", id)
      if (told["ActiveState"] ~ /^(active|activating|reloading|deactivating)$/ && id ~ /^[0-9a-f-]+$/ &&
        (told["WorkingDirectory"] == ours id || index(told["Listen"], sockets id ".sock ") == 1)) print service, id
    }'
}

systemd_ids() { systemd_running '*' | cut -d ' ' -f 2; }

systemd_services() { systemd_running "$1" | cut -d ' ' -f 1 | sort -u; } # ID

systemd_shutdown() { systemctl_as_root stop "$APPLICATION.service"; }
