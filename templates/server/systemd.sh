# shellcheck shell=bash
# Services under systemd: template units whose instance is the release (templates/systemd).

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
  local key value id='' active='' sub='' restarts=0 result='' told='' instance
  while IFS='=' read -r key value; do
    case $key in
      Id) id=${value#"$APPLICATION-"} id=${id%.service} ;;
      ActiveState) active=$value ;;
      SubState) sub=$value ;;
      NRestarts) restarts=$value ;;
      Result) result=$value ;;
      StatusText) told=$value ;;
      '')
        [ -n "$id" ] || continue
        case $id in *@*) instance=${id#*@} ;; *) instance=- ;; esac
        printf '%s\t%s\t' "${id%%@*}" "$instance"
        systemd_word "$active/$sub" "$restarts" "$result"
        printf '\t%s\n' "$told"
        id='' told='' restarts=0
        ;;
    esac
  done < <(systemctl show -p Id,ActiveState,SubState,NRestarts,Result,StatusText "$@"; echo)
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

systemd_ids() {
  systemctl list-units --plain --no-legend --full --state=active,activating,reloading,deactivating "$APPLICATION-*@*.service" "$APPLICATION-*@*.socket" |
    sed -n 's/^[^ ]*@\([0-9a-f-]*\)\.[a-z]* .*/\1/p'
}

systemd_services() { # ID
  systemctl list-units --plain --no-legend --full --state=active,activating,reloading,deactivating \
    "$APPLICATION-*@$1.service" "$APPLICATION-*@$1.socket" | sed -n "s/^$APPLICATION-\([^ @]*\)@.*/\1/p" | sort -u
}

systemd_shutdown() { systemctl_as_root stop "$APPLICATION.service"; }
