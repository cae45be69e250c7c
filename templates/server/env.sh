# shellcheck shell=bash
# The file of the application's variables: replaced whole, never followed through a link, its versions kept beside it.
# What is in it passes through pipes and this bash's own words alone: the argv of a process is there for all to see.

variables_place() { # FILE   -> VARIABLES, VARIABLES_VERSIONS
  local folder
  VARIABLES=$SHARED/$1
  folder=${VARIABLES%/*}
  VARIABLES_VERSIONS=$folder/.env.versions
  [ ! -e "$folder" ] || [ "$(realpath "$folder")" = "$(realpath "$SHARED")${folder#"$SHARED"}" ] ||
    die "$folder leads out of $SHARED by a symbolic link" "look who made it; then put a folder in its place"
  variables_is_plain "$VARIABLES"
}

variables_is_plain() { # PATH
  [ ! -L "$1" ] || die "$1 is a symbolic link" "look who made it and where it leads; then put a file in its place, or remove it"
  [ ! -e "$1" ] || [ -f "$1" ] || die "$1 is not a file" "look what it is; then move it away"
}

variables_print() { # PATH   base64, the last part of a mark
  dd if="$1" iflag=nofollow bs=64K status=none | base64 -w 0
}

variables_content() { # PATH   -> mark content BASE64, or absent; a warning when others may read it
  local content mode
  variables_is_plain "$1"
  if [ ! -e "$1" ]; then
    mark absent
    return
  fi
  [ -r "$1" ] || die "$(id -un) may not read $1" "chown $(id -un) $1, as root"
  mode=$(stat -c %a "$1")
  if ((8#$mode & 8#007)); then warn "everybody on this server may read $1 (mode $mode): the next change of it ends that"; fi
  content=$(variables_print "$1")
  mark content "$content"
}

read_variables() { # FILE
  variables_place "$1"
  variables_content "$VARIABLES"
}

read_variables_version() { # FILE VERSION
  variables_place "$1"
  [ -e "$VARIABLES_VERSIONS/$2" ] || die "there is no version $2 of $VARIABLES" "fab env.versions"
  variables_content "$VARIABLES_VERSIONS/$2"
}

variables_versions() { # FILE   -> mark version NAME, the newest first
  local name
  variables_place "$1"
  for name in $(variables_version_names); do mark version "$name"; done
}

variables_version_names() {
  local path
  for path in "$VARIABLES_VERSIONS"/[0-9]*; do
    if [ -f "$path" ]; then printf '%s\n' "${path##*/}"; fi
  done | sort -r
}

variables_keep_folder() {
  mkdir -p "${VARIABLES%/*}"
  if [ ! -d "$VARIABLES_VERSIONS" ]; then mkdir -m 700 "$VARIABLES_VERSIONS"; fi
  if [ -L "$VARIABLES_VERSIONS" ] || [ ! -O "$VARIABLES_VERSIONS" ]; then
    die "$VARIABLES_VERSIONS is not a folder of $(id -un)" "look who made it; then remove it"
  fi
  chmod 700 "$VARIABLES_VERSIONS"
  rm -f "$VARIABLES_VERSIONS"/.new "$VARIABLES_VERSIONS"/.kept # of a run that died; nobody else can write here
}

variables_permit() { # PATH ACCOUNT   an empty file: who may read what will be in it
  local group
  if [ -z "$2" ] || [ "$2" = "$(id -un)" ]; then return; fi
  group=$(stat -c %G "$VARIABLES" 2>/dev/null) || true # as fab provision has made it: without the web server in it
  if ! id -nG "$2" 2>/dev/null | tr ' ' '\n' | grep -qx -- "${group:-?}"; then group=$(id -gn "$2" 2>/dev/null); fi ||
    die "there is no account $2, which is to read $VARIABLES" "set app_user in releases.toml, or create it"
  chgrp "$group" "$1" 2>/dev/null ||
    die "$(id -un) is not in the group $group, so that $2 could not read $VARIABLES" "usermod -aG $group $(id -un), as root"
  chmod 640 "$1"
}

# Whoever reads it sees the old file or the new one. In the folder of versions nobody else can put anything in its way.
write_variables() { # FILE VERSION ACCOUNT CONTENT_IN_BASE64
  local new kept
  variables_place "$1"
  variables_keep_folder
  new=$VARIABLES_VERSIONS/.new kept=$VARIABLES_VERSIONS/.kept
  # shellcheck disable=SC2064  # the values of now
  trap "$(printf 'rm -f %q %q' "$new" "$kept")" EXIT
  (umask 077 && set -C && : >"$new")
  variables_permit "$new" "$3"
  printf '%s' "$4" | base64 -d >"$new"
  sync "$new"
  if [ -e "$VARIABLES" ]; then
    (umask 077 && set -C && : >"$kept")
    dd if="$VARIABLES" iflag=nofollow bs=64K status=none >"$kept"
    sync "$kept"
    mv -T "$kept" "$VARIABLES_VERSIONS/$2"
  fi
  mv -T "$new" "$VARIABLES"
  sync "$VARIABLES_VERSIONS" "${VARIABLES%/*}"
  trap - EXIT
}

# Undo of write_variables. Without a version there was no file, or it was not reached.
put_back_variables() { # FILE VERSION ACCOUNT WAS
  local kept
  variables_place "$1"
  kept=$VARIABLES_VERSIONS/$2
  if [ -f "$kept" ]; then
    variables_permit "$kept" "$3"
    mv -T "$kept" "$VARIABLES"
  elif [ "$4" = absent ]; then
    rm -f "$VARIABLES"
  fi
  sync "${VARIABLES%/*}"
}

forget_variables() { # FILE COUNT   keep the newest COUNT
  local name
  variables_place "$1"
  for name in $(variables_version_names | tail -n "+$(($2 + 1))"); do rm -f "$VARIABLES_VERSIONS/$name"; done
}
