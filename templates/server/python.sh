# shellcheck shell=bash
# shellcheck disable=SC2153,SC2174  # SITE and the rest are set where the session begins; ~/.cache is as it comes
# What is new on servers is Python (tasks/server). Its code lies in a folder named by its hash that only this account
# writes: SERVER_FOLDER on the operator's own machine, else unpacked from SERVER_CODE when it is first needed.

server() { # FUNCTION... ARGUMENTS   the names as one word; a line of JSON for each
  local folder names
  folder=$(server_folder)
  read -ra names <<<"$1"
  # Through a pipe: what is said may hold secrets, and argument lists are for everybody to read.
  printf '%s\n%s\n%s' "$NONCE" "$SITE" "$2" | server_process "$folder" "${names[@]}"
}

server_process() { # FOLDER FUNCTION...
  "${SERVER_PYTHON:-/usr/bin/python3}" -I -S -X utf8 "$1/__main__.py" "${@:2}"
}

server_folder() {
  local place
  if [ -n "${SERVER_FOLDER-}" ]; then
    printf '%s' "$SERVER_FOLDER"
    return
  fi
  [ -x "${SERVER_PYTHON:-/usr/bin/python3}" ] || die "there is no /usr/bin/python3 here" "apt-get install python3"
  if [ "$EUID" = 0 ]; then place=/var/cache/fab-releases; else place=${HOME:-/nonexistent}/.cache/fab-releases; fi
  server_unpacked "$place" || server_unpacked "/dev/shm/fab-releases-$EUID" ||
    die "there is no place for the code that this session brings" "df -h $place /dev/shm; may $(id -un) write there?"
}

server_unpacked() { # PLACE   never half, also when the power goes; a place of somebody else's is not used
  local aside folder=$1/$SERVER_HASH
  { [ -d "$1" ] || mkdir -p -m 700 "$1" 2>/dev/null; } && [ -O "$1" ] && [ ! -L "$1" ] || return 1
  if [ ! -d "$folder" ]; then
    find "$1" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
    aside=$(mktemp -d "$1/.new.XXXXXX" 2>/dev/null) || return 1
    if base64 -d <<<"$SERVER_CODE" | tar -xz --no-same-owner -C "$aside" && sync -f "$aside"; then
      mv -T "$aside" "$folder" 2>/dev/null || rm -rf "$aside" # another run was quicker
    else
      rm -rf "$aside"
      return 1
    fi
  fi
  printf '%s' "$folder"
}
