# shellcheck shell=bash
# Asks everything at once and changes nothing. Each question has a bash of its own that is ended, with all it began, when
# its time is over: a database that hangs is an answer as well. Nothing is written anywhere, for the disk may be full.

QUESTIONS=()
# What the library's functions need to know, in that other bash.
KNOWN=(NONCE DEPLOY_TO RUN APPLICATION MANAGER PORT SERVICES PRIVATE RELEASES STAGING SHARED ENVIRONMENTS)
KNOWN+=(TOOLS SUPERVISOR_CONF RELAY_PROGRAM LOCKED STEP)

tell_time() { mark clock "$EPOCHREALTIME"; }

question() { # NAME SECONDS FUNCTION WORD...
  local name=$1 seconds=$2 answer
  shift 2
  # shellcheck disable=SC2016  # that other bash expands it
  exec {answer}< <(
    set +e
    timeout -k 1 "$seconds" bash --noprofile --norc -c 'eval "$(cat "$0")"' <(known && printf '%q ' "$@") </dev/null 2>&1 | tail -c 20000
    printf '\nstatus %s\n' "${PIPESTATUS[0]}"
  )
  QUESTIONS+=("$name $answer")
}

known() {
  declare -f
  declare -p "${KNOWN[@]}" 2>/dev/null || true
}

answers() { # SECONDS   in the order of the questions; what cannot even be ended is left behind
  local entry text deadline=$((SECONDS + $1)) left
  for entry in "${QUESTIONS[@]}"; do
    left=$((deadline - SECONDS))
    text=''
    IFS= read -r -d '' -t "$((left > 0 ? left : 1))" text <&"${entry##* }" || true
    mark answer "${entry% *}" "$(printf '%s' "$text" | base64 -w 0)"
  done
}

unasked() { # REASON
  printf 'skipped %s\n' "$1"
  exit 0
}

live_or_unasked() {
  CURRENT=$(current_id)
  [ -n "$CURRENT" ] && [ -d "$RELEASES/$CURRENT/.release" ] || unasked "nothing is live here yet"
}
