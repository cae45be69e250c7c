# shellcheck shell=bash
# What opens the repository away from the server. A key that is there is never replaced: nothing else opens what was sent.

no_key_yet() { # APPLICATION HERE   before one is made at HERE
  local key=/etc/fab-releases/$1.key
  [ ! -s "$key" ] || die "this server has the key of what was sent away, and $2 is not here" "copy it here from where you keep it, or from $key there"
}

look_key() { # NAME PATH KEY   "": there is none to compare with
  if [ -n "$3" ] && [ -s "$2" ] && [ "$(cat "$2")" != "${3%$'\n'}" ]; then
    die "$2 is another key than [backup] key here, and opens what was sent away" "copy it here; to begin anew with the one that is here, remove it there"
  fi
  look_owner "$1" "$2"
}
