# shellcheck shell=bash
# shellcheck disable=SC2329  # what the library calls is said in other words here
# Questions about what should keep the data safe.

ask_backups() {
  [ -n "$(current_id)" ] || unasked "nothing is live here yet"
  fact() { printf '%s %s\n' "$1" "$2"; }
  survey_backups
}

ask_repository() { # JSON   {"nonce", "proof"}
  local program=/usr/local/lib/fab-releases/$APPLICATION-offsite-proof
  [ -x "$program" ] || unasked "fab provision has not set it up yet"
  printf '%s\n' "$1" | sudo -n "$program"
}

ask_archive() {
  [ -x "$(archivist)" ] || unasked "fab provision has not set it up yet"
  sudo -n -u postgres "$(archivist)" look "$APPLICATION"
}

ask_apart() {
  fact() { printf '%s %s\n' "$1" "$2"; }
  survey_apart
}
