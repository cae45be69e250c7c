# shellcheck shell=bash
# shellcheck disable=SC2329  # what the library calls is said in other words here
# Questions about the application: what it needs to run, and what should keep it safe.

ask_program() { # PROGRAM VERB WORD...   with the environment, the Python and the settings of the live release
  live_or_unasked
  in_release "$RELEASES/$CURRENT" "$RELEASES/$CURRENT/.venv/bin/python" -c "$@"
}

ask_environment() { # PROGRAM   what differs from the package's own list of files
  local found
  live_or_unasked
  found=$("$RELEASES/$CURRENT/.venv/bin/python" -IS -c "$1" "$RELEASES/$CURRENT/.venv") || exit
  [ -z "$found" ] || printf 'damaged %s\n' "${found//$'\n'/$'\n'damaged }"
  echo compared
}

ask_certificate() { # ADDRESS NAME
  local text
  command -v openssl >/dev/null || unasked "openssl is not installed"
  text=$(openssl s_client -connect "$1" -servername "$2" </dev/null 2>/dev/null)
  if [ -z "$text" ] || ! grep -q BEGIN <<<"$text"; then printf 'none\n'; return; fi
  openssl x509 -noout -enddate <<<"$text" | sed 's/=/ /'
  openssl x509 -noout -checkhost "$2" <<<"$text" | grep -q 'does match' || printf 'stranger\n'
}

ask_git() { # URL REF
  fact() { printf '%s %s\n' "$1" "$2"; }
  die() {
    printf 'error %s\nhint %s\n' "$1" "$2"
    exit 1
  }
  resolve "$@"
}
