# shellcheck shell=bash
# On a balancer: which hosts get requests, and whether they answer it.

answer_of() { # ADDRESS HOST PATH   the status code, 000 where there is none
  curl --silent --output /dev/null --max-time 3 --connect-timeout 2 --write-out '%{http_code}' --header "Host: $2" "http://$1$3" || true
}

look_balanced() { # UPSTREAM HOST PATH
  local line name code
  systemctl is-active --quiet nginx.service || mark role balancer "nginx does not run" ill
  [ -s "$1" ] || mark role balancer "it is not set up" ill
  while IFS= read -r line; do
    name=${line##*  # } line=${line#server }
    code=$(answer_of "${line%% *}" "$2" "$3")
    case $line,$code in
      *' down;'*) mark role balancer "$name is drained" ill ;;
      *,[234]??) mark role balancer "$name answers" well ;;
      *,000) mark role balancer "$name does not answer" ill ;;
      *) mark role balancer "$name answers $code" ill ;;
    esac
  done < <(grep '^server ' "$1" 2>/dev/null || true)
}

is_drained() { grep -q " down;  # $2\$" "$1"; } # UPSTREAM NAME

somebody_else_answers() { # UPSTREAM HOST PATH NAME...
  local upstream=$1 host=$2 path=$3 line
  shift 3
  while IFS= read -r line; do
    case " $* " in *" ${line##*  # } "*) continue ;; esac
    line=${line#server }
    case $line,$(answer_of "${line%% *}" "$host" "$path") in *' down;'*) ;; *,[234]??) return ;; esac
  done < <(grep '^server ' "$upstream")
  return 1
}

drain() { # PROGRAM UPSTREAM HOST PATH NAME...   by somebody, until `undrain`
  local program=$1 upstream=$2 name
  shift
  somebody_else_answers "$@" || die "nobody else answers: $(shift 3; echo "$*") stays" "fab status"
  shift 3
  for name in "$@"; do balance "$program" drain "$name"; done
}

undrain() { # PROGRAM NAME...
  local program=$1 name
  shift
  for name in "$@"; do
    balance "$program" undrain "$name"
    rm -f "$PRIVATE/drained/$name"
  done
}

# For a moment: what a run drained is on a list, so that it, or the next one, puts back this and nothing that was drained on purpose.
drain_for_now() { # PROGRAM UPSTREAM HOST PATH NAME...
  local program=$1 upstream=$2 name
  shift
  if ! somebody_else_answers "$@"; then
    warn "nobody else answers: $(shift 3; echo "$*") goes on serving meanwhile"
    return
  fi
  shift 3
  mkdir -p "$PRIVATE/drained"
  for name in "$@"; do
    if is_drained "$upstream" "$name"; then continue; fi
    : >"$PRIVATE/drained/$name"
    balance "$program" drain "$name"
  done
}

undrain_after() { # PROGRAM NAME...
  local program=$1 name
  shift
  for name in "$@"; do
    if [ -e "$PRIVATE/drained/$name" ]; then undrain "$program" "$name"; fi
  done
}

balance() { # PROGRAM WORD NAME
  sudo -n "$1" "$2" "$3" || die "$2 $3: the balancer's list could not be changed" "the lines above say why; fab provision sets it up"
}
