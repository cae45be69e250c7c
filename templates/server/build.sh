# shellcheck shell=bash
# What turns a checkout into a release: its environment, its links into shared/, its static files, its own programs.

program() { # ID NAME TEXT
  mkdir -p "$STAGING/$1/.release/$(dirname "$2")"
  printf '%s' "$3" >"$STAGING/$1/.release/$2"
}

# With the release's environment and working directory. What it writes into shared folders its services must be able
# to change, by their group.
in_release() ( # DIR WORD...
  umask 002
  dir=$1
  shift
  exec /usr/bin/env python3 -IS "$dir/.release/launch.py" exec -- "$@"
)

find_uv() {
  local candidate
  for candidate in "$(command -v uv)" "$HOME/.local/bin/uv" /usr/local/bin/uv "$PRIVATE/tools/bin/uv"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      printf '%s' "$candidate"
      return
    fi
  done
}

bring_uv() { # VERSION   once per server, from the package index
  python3 -m venv "$PRIVATE/tools" && "$PRIVATE/tools/bin/pip" install --quiet "uv==$1" && find_uv
}

lock_file() { # DIR NAMED
  local name
  for name in ${2:+"$2"} uv.lock pylock.toml requirements.txt pyproject.toml; do
    if [ -f "$1/$name" ]; then
      printf '%s' "$name"
      return
    fi
    [ -z "$2" ] || return 1
  done
  return 1
}

python_for() { # UV VERSION DIR   an interpreter that both releases.toml and the revision accept
  local asked='' wanted=''
  if [ -z "$1" ]; then
    command -v "python${2:-3}" || die "python$2 is not installed on this server" "apt-get install python$2 python$2-venv"
    return
  fi
  if [ -f "$3/pyproject.toml" ]; then asked=$(sed -n 's/^requires-python *= *["'\'']\(.*\)["'\''].*/\1/p' "$3/pyproject.toml" | head -n 1); fi
  wanted=$asked${asked:+${2:+,}}${2:+==$2.*}
  UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=system "$1" python find --no-project --no-config "${wanted:->=3.9}" ||
    die "uv finds no Python ${wanted:->=3.9} on this server${asked:+, and this revision asks for $asked}" \
      "install one there (apt-get install python3.x python3.x-venv) or change [python] version in releases.toml"
}

# Environments are shared by key and never changed: one that has the lock is linked. Else the release builds its own, from a
# hard-link copy of the live one where it can: uv replaces files and never writes into them.
environment() { # ID FRESH VERSION INSTALLER UV_VERSION REQUIREMENTS CONSTRAINTS GROUPS EXTRA...   FRESH: shares nothing
  local fresh=$2
  set -- "$1" "${@:3}"
  local id=$1 version=$2 installer=$3 requirements=$5 constraints=$6 groups=$7
  local dir=$STAGING/$id lock key whole found
  lock=$(lock_file "$dir" "$requirements") ||
    die "there is no ${requirements:-requirements.txt, uv.lock, pylock.toml or pyproject.toml} in this revision" "see [python] requirements in releases.toml"
  if [ "$lock" = pyproject.toml ] && [ -f "$dir/poetry.lock" ]; then
    die "poetry.lock cannot be installed without Poetry" "poetry export -f requirements.txt -o requirements.txt, and commit it"
  fi
  key=$(environment_key "$dir" "$lock" "$constraints" "$installer" "$version" "$groups" "${@:8}")
  printf '%s' "$key" >"$dir/.release/lock.key"
  whole=$key$(source_key "$dir" "$lock" "$installer" "${@:8}")
  found=$(environment_with "$whole")
  if [ -n "$found" ] && [ -z "$fresh" ]; then
    fact environment unchanged
  else
    build_environment "$lock" "$@"
    found=$whole-$id
    publish_environment "$id" "$found"
  fi
  ln -s "../../environments/$found" "$dir/.venv"
  cp "$ENVIRONMENTS/$found/freeze.txt" "$ENVIRONMENTS/$found/python" "$dir/.release/"
}

environment_key() { # DIR LOCK CONSTRAINTS INSTALLER VERSION GROUPS EXTRA...   of every package that is asked for
  local dir=$1 lock=$2 constraints=$3 sum
  sum=$({
    printf '%s\n' "$4" "$5" "$lock" "${@:6}"
    lines_of "$dir/$lock"
    if [ -n "$constraints" ]; then lines_of "$dir/$constraints"; fi
    if [ -f "$dir/pyproject.toml" ]; then cat "$dir/pyproject.toml"; fi
  } | sha256sum)
  printf '%s' "${sum:0:16}"
}

lines_of() { # FILE [DEPTH]   and of the files that a requirements file includes; one that includes itself has an end
  local name depth=${2:-0}
  [ "$depth" -lt 5 ] || return 0
  awk 1 "$1" # as cat, and the last line ends
  awk 1 "$1" | sed -nE 's/^[[:space:]]*(-[rc]|--requirements?|--constraints?)[[:space:]=]*([^[:space:]]+).*/\2/p' |
    while IFS= read -r name; do
      if [ -f "${1%/*}/$name" ]; then lines_of "${1%/*}/$name" $((depth + 1)); fi
    done
}

# Where the environment holds code of this repository, it is of this commit alone: object ids of all that git has.
source_key() { # DIR LOCK INSTALLER EXTRA...
  if installs_code "$@"; then sha256sum <"$1/.release/tree" | cut -c 1-16; fi
}

installs_code() { # DIR LOCK INSTALLER EXTRA...   the project itself, or a folder of it
  local dir=$1 lock=$2 installer=$3
  shift 3
  case $lock in
    uv.lock) grep -Eq 'source = \{ (editable|directory) = ' "$dir/$lock" && return ;;
    pylock.toml) grep -Eq 'directory( =|\])' "$dir/$lock" && return ;;
    pyproject.toml) [ "$installer" = pip ] || grep -Eq '^\[build-system\]|(path|workspace) *=' "$dir/$lock" && return ;;
  esac
  { printf '%s\n' "$@" && lines_of "$dir/$lock"; } | grep -E '^[[:space:]]*(-e|--editable|\.|[[:alnum:]_-]+/)|file:|@ *\.' >/dev/null
}

environment_with() { # KEY   its name, when there is one whose interpreter is still there; the newest, if one was built anew
  local path found=
  for path in "$ENVIRONMENTS/$1"-*; do
    if [ -x "$path/bin/python" ]; then found=${path##*/}; fi
  done
  printf '%s' "$found"
}

AGAIN=() # words for uv and pip: what they shall not take from their caches

build_environment() { # LOCK ID VERSION INSTALLER UV_VERSION REQUIREMENTS CONSTRAINTS GROUPS EXTRA...
  local lock=$1 dir=$STAGING/$2 version=$3 installer=$4 uv_version=$5 constraints=$7 groups=$8 uv='' python donor
  shift 8
  if [ "$installer" = uv ]; then
    uv=$(find_uv)
    [ -n "$uv" ] || uv=$(bring_uv "$uv_version") || { warn "uv could not be brought to this server: pip is used"; uv=; }
  fi
  python=$(python_for "$uv" "$version" "$dir")
  "$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3], end="")' >"$dir/.release/python"
  donor=$RELEASES/$(current_id)
  if [ -z "$fresh" ] && [ -n "$uv" ] && [ -f "$donor/.venv/pyvenv.cfg" ] && [ "$(cat "$donor/.release/python")" = "$(cat "$dir/.release/python")" ]; then
    cp -RlP --no-preserve=mode "$(readlink -f "$donor/.venv")" "$dir/.venv" # without its folders' being read-only
    fact environment changed
  else
    new_environment "$uv" "$python" "$dir"
    fact environment new
  fi
  rm -f "$dir/.venv/freeze.txt" "$dir/.venv/python" "$dir/.venv/differing.json" # one inode with the donor's
  install_packages "$uv" "$dir" "$lock" "$constraints" "$groups" "$@"
  mend_packages "$uv" "$dir" "$lock" "$constraints" "$groups" "$@"
  if [ -n "$uv" ]; then
    "$uv" pip freeze --quiet --python "$dir/.venv/bin/python" >"$dir/.venv/freeze.txt"
  else
    "$dir/.venv/bin/python" -m pip freeze --quiet >"$dir/.venv/freeze.txt"
  fi
  cp "$dir/.release/python" "$dir/.venv/python"
}

install_packages() { # UV DIR LOCK CONSTRAINTS GROUPS EXTRA...
  if [ -n "$1" ]; then install_with_uv "$@"; else install_with_pip "$2" "$3" "$4" "${@:6}"; fi
}

# A file that went bad on the disk is one with the file in uv's cache, and with that of every environment: it would be
# installed for ever. What differs from its package's own list is fetched again, once.
mend_packages() { # UV DIR LOCK CONSTRAINTS GROUPS EXTRA...
  local uv=$1 dir=$2 found packages package
  found=$(damaged_packages "$dir")
  [ -n "$found" ] || return 0
  mapfile -t packages < <(cut -f 1 <<<"$found")
  warn "damaged on this server's disk, and fetched again: $(damaged_names "$found")"
  AGAIN=()
  if [ -n "$uv" ]; then
    timeout -k 5 120 "$uv" cache clean --quiet -- "${packages[@]}" || die "uv's cache cannot be cleaned" "as $(id -un) on this server: uv cache clean ${packages[*]}"
    for package in "${packages[@]}"; do AGAIN+=(--reinstall-package "$package"); done
  else
    AGAIN=(--force-reinstall --no-cache-dir)
  fi
  install_packages "$@"
  AGAIN=()
  found=$(damaged_packages "$dir")
  [ -z "$found" ] || die "packages are damaged also when they are fetched again: $(damaged_names "$found")" "is the disk failing (dmesg)? then deploy again"
}

damaged_packages() { # DIR   -> PACKAGE FILE WHAT, tab-separated, the first of each package
  "$1/.venv/bin/python" -IS "$1/.release/packages.py" "$1/.venv" note
}

damaged_names() { # LINES   of damaged_packages
  head -n 3 <<<"$1" | awk -F '\t' '{printf "%s%s (%s %s)", (NR > 1 ? ", " : ""), $1, $2, $3}'
}

# Nothing is added to it from now on: a hook that installs something would install it into the live release. The name
# that a release can find comes last, when its data is on disk.
publish_environment() { # ID NAME
  mv -T "$STAGING/$1/.venv" "$ENVIRONMENTS/.new-$2"
  # uv leaves a lock that everybody may write.
  find "$ENVIRONMENTS/.new-$2" -type d -exec chmod a-w {} + -o -type f -perm /o+w -exec chmod o-w {} +
  sync -f "$ENVIRONMENTS/.new-$2"
  mv -T "$ENVIRONMENTS/.new-$2" "$ENVIRONMENTS/$2"
}

new_environment() { # UV PYTHON DIR
  if [ -n "$1" ]; then
    UV_PYTHON_DOWNLOADS=never "$1" venv --quiet --no-config --relocatable --python "$2" "$3/.venv"
  else
    "$2" -m venv "$3/.venv" || die "python3 -m venv does not work on this server" "apt-get install python3-venv"
  fi
}

# What a server that was lost had installed for this commit (fab recover): what its requirements leave open is not newer now.
as_installed() { # DIR   words for uv and pip
  local file=$PRIVATE/as-installed.${1##*-}
  if [ -s "$file" ]; then
    CONSTRAINED=(-c "$file")
    warn "installing the versions that were installed on the server that was lost, as $file says"
  else
    CONSTRAINED=()
  fi
}

install_with_uv() { # UV DIR LOCK CONSTRAINTS GROUPS EXTRA...
  local uv=$1 dir=$2 lock=$3 constraints=$4 groups=$5 group words=()
  shift 5
  export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1 UV_NO_EDITABLE=1 VIRTUAL_ENV=$dir/.venv # its folder is staging/ now
  if [ "$lock" = uv.lock ]; then
    for group in $groups; do words+=(--group "$group"); done
    (cd "$dir" && UV_PROJECT_ENVIRONMENT=$dir/.venv nice "$uv" sync --locked --no-dev --no-editable --compile-bytecode --link-mode hardlink "${AGAIN[@]}" "${words[@]}")
    as_installed "$dir"
    [ $# = 0 ] || nice "$uv" pip install --quiet --compile-bytecode --link-mode hardlink "${AGAIN[@]}" ${constraints:+-c "$dir/$constraints"} "${CONSTRAINED[@]}" -- "$@"
    return
  fi
  as_installed "$dir"
  # With hashes, the file itself leaves nothing open.
  if [ $# = 0 ] && grep -q -- '--hash=' "$dir/$lock"; then words+=(--require-hashes) CONSTRAINED=(); fi
  (cd "$dir/$(dirname "$lock")" && nice "$uv" pip install --exact --compile-bytecode --link-mode hardlink "${AGAIN[@]}" "${words[@]}" \
    ${constraints:+-c "$dir/$constraints"} "${CONSTRAINED[@]}" -r "$dir/$lock" "$@")
}

install_with_pip() { # DIR LOCK CONSTRAINTS EXTRA...
  local dir=$1 lock=$2 constraints=$3
  shift 3
  case $lock in uv.lock | pylock.toml) die "$lock needs uv" "see [python] installer in releases.toml" ;; esac
  if [ "$lock" = pyproject.toml ]; then set -- "$dir" "$@"; else set -- -r "$dir/$lock" "$@"; fi
  as_installed "$dir"
  nice "$dir/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${AGAIN[@]}" ${constraints:+-c "$dir/$constraints"} "${CONSTRAINED[@]}" "$@"
}

compile_code() { # ID   the services may not write into the release: without this every start compiles again
  # As compileall, which takes longer to import than to work.
  find "$STAGING/$1" \( -name .venv -o -name .release -o -name node_modules \) -prune -o -name '*.py' -type f -print |
    nice "$STAGING/$1/.venv/bin/python" -IS -c 'import py_compile, sys
for line in sys.stdin:
    try:
        py_compile.compile(line.rstrip("\n"), quiet=2)
    except Exception:  # what is no Python is left as it is
        pass' >/dev/null 2>&1 || true
}

# What git brought along in a shared folder seeds it once; what shared/ holds is never overwritten.
link_folder() { # ID PATH USER   USER runs the services and writes there by its group; "" is whoever we are
  local target=$SHARED/$2 place=$STAGING/$1/$2
  if [ ! -d "$target" ]; then
    mkdir -p "$target"
    [ -z "$3" ] || { chgrp "$(id -gn "$3")" "$target" && chmod 2770 "$target"; } 2>/dev/null ||
      warn "$3 may not write in $target: chgrp $(id -gn "$3") and chmod 2770 it, as root"
  fi
  mkdir -p "$(dirname "$place")"
  if [ -d "$place" ] && [ ! -L "$place" ]; then
    server make.seeded.fill "{\"arguments\": {\"source\": \"$(json_text "$place")\", \"target\": \"$(json_text "$target")\"}}"
  fi
  rm -rf "$place"
  ln -s "$target" "$place"
}

link_file() { # ID PATH
  local target=$SHARED/$2 place=$STAGING/$1/$2
  [ -f "$target" ] || die "$target does not exist" "put it there first; it is never made up"
  mkdir -p "$(dirname "$place")"
  rm -rf "$place"
  ln -s "$target" "$place"
}

hook() { # ID WHEN COMMAND   "-command" may fail, "first:command" runs at the first deploy only
  local dir=$RELEASES/$1 command=$3 optional=''
  [ -d "$dir" ] || dir=$STAGING/$1
  case $command in first:*)
    if [ -n "$(current_id)" ] || [ -e "$PRIVATE/recovered" ]; then return 0; fi
    command=${command#first:}
    ;;
  esac
  case $command in -*) optional=yes command=${command#-} ;; esac
  printf '+ %s\n' "$command"
  if in_release "$dir" /bin/bash -euo pipefail -c "$command" 3>&-; then return; fi
  [ -n "$optional" ] || die "the hook $2 failed: $command" "put a - before it in releases.toml if the release can live without it"
  warn "the hook $2 failed and may: $command"
}

# The same inputs (every file that is not code, the settings, the packages): a hard-link copy of what was collected.
static_files() { # ID STATIC_ROOT ALWAYS
  local dir=$STAGING/$1 key donor
  key="$(cat "$dir/.release/static.key")-$(cat "$dir/.release/lock.key")"
  printf '%s' "$key" >"$dir/.release/static.key"
  donor=$RELEASES/$(current_id)
  if [ -z "$3" ] && [ -d "$donor/$2" ] && [ "$(cat "$donor/.release/static.key" 2>/dev/null)" = "$key" ]; then
    rm -rf "${dir:?}/$2"
    mkdir -p "$(dirname "$dir/$2")"
    cp -al "$donor/$2" "$dir/$2"
    fact static unchanged
  else
    project "$dir" collectstatic '{}' || refuse "static files could not be collected"
    fact static collected
  fi
}

# Hard links, nothing overwritten: a page rendered before the switch finds the old hashed files after it.
pool_static() { # ID STATIC_ROOT
  mkdir -p "$SHARED/static"
  [ ! -d "$STAGING/$1/$2" ] || cp -aln "$STAGING/$1/$2/." "$SHARED/static/"
}
