# shellcheck shell=bash
# shellcheck disable=SC2329  # what the library calls is said in other words here
# Questions about the machine. Answers are lines, "WORD VALUE...".

ask_clock() {
  printf 'container %s\n' "$(systemd-detect-virt --container 2>/dev/null)"
  printf 'synchronized %s\n' "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)"
}

ask_disk() { # FOLDER...
  local path
  for path in "$@" /; do
    path=$(existing_parent "$path")
    df -Pk "$path" | awk 'NR == 2 {print "disk", $2, $4, $6}'
    df -Pi "$path" | awk 'NR == 2 {print "inodes", $2, $4, $6}'
  done
}

ask_memory() { awk '/^(MemTotal|MemAvailable|SwapTotal|SwapFree):/ {print $1, $2}' /proc/meminfo; }

ask_python() { # VERSION INSTALLER
  local uv='' python
  die() {
    printf 'missing %s\nhint %s\n' "$1" "$2"
    exit 1
  }
  [ "$2" != uv ] || uv=$(find_uv)
  [ -z "$uv" ] || printf 'uv %s\n' "$("$uv" --version 2>/dev/null)"
  python=$(python_for "$uv" "$1" /nowhere) || { printf '%s\n' "$python"; return 0; }
  printf 'python %s\n' "$("$python" -IS -c 'import platform; print(platform.python_version())')"
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then printf 'venv yes\n'; fi
}

ask_packages() { # PACKAGE...   and git-lfs, where what is live needs it
  local sha
  command -v dpkg-query >/dev/null || unasked "this is no Debian"
  if [ $# != 0 ]; then dpkg-query -W -f 'package ${db:Status-Status} ${Package}\n' "$@" 2>/dev/null; fi
  sha=$(sed -n 's/.*"sha": *"\([0-9a-f]*\)".*/\1/p' "$DEPLOY_TO/current/release.json" 2>/dev/null)
  if [ -n "$sha" ] && git -C "$DEPLOY_TO/repo.git" grep -q 'filter=lfs' "$sha" -- '.gitattributes' '**/.gitattributes' 2>/dev/null; then
    git lfs version >/dev/null 2>&1 || printf 'lfs missing\n'
  fi
}

ask_files() { # APP_USER FILE...   whether the services' account may read them, too
  local user=$1 path groups owner group mode
  shift
  groups=" $(id -nG "$user" 2>/dev/null) "
  for path in "$@"; do
    if [ -d "$SHARED/$path" ]; then printf 'folder %s\n' "$path"; continue; fi
    if [ ! -e "$SHARED/$path" ]; then printf 'absent %s\n' "$path"; continue; fi
    if [ ! -r "$SHARED/$path" ]; then printf 'closed %s\n' "$path"; continue; fi
    read -r owner group mode < <(stat -L -c '%U %G %a' "$SHARED/$path")
    mode=000$mode mode=${mode: -3}
    if [ -n "$user" ]; then
      if [ "$owner" = "$user" ]; then ((${mode:0:1} & 4)) || printf 'hidden %s\n' "$path"
      elif [[ $groups == *" $group "* ]]; then ((${mode:1:1} & 4)) || printf 'hidden %s\n' "$path"
      else ((${mode:2:1} & 4)) || printf 'hidden %s\n' "$path"; fi
    fi
    printf 'file %s %s\n' "$mode" "$path"
  done
}

ask_units() { # PATH...
  local path
  for path in "$@"; do
    if [ ! -e "$path" ]; then printf 'absent %s\n' "$path"
    elif [ ! -r "$path" ]; then printf 'closed %s\n' "$path"
    else printf 'sum %s %s\n' "$(sha256sum <"$path" | cut -c 1-64)" "$path"; fi
  done
  systemctl show -p Id,NeedDaemonReload "$APPLICATION*" 2>/dev/null | awk -v RS= '/NeedDaemonReload=yes/ {sub(/.*Id=/, ""); sub(/\n.*/, ""); print "stale", $0}'
}

ask_services() {
  systemctl show -p Id,NRestarts,WorkingDirectory "$APPLICATION-*.service" 2>/dev/null | awk -v RS= -F '[=\n]' -v ours="$DEPLOY_TO/" '{
    folder = ours
    for (i = 1; i < NF; i += 2) {if ($i == "Id") id = $(i + 1); else if ($i == "NRestarts") restarts = $(i + 1); else folder = $(i + 1)}
    if (restarts > 0 && (folder == "" || index(folder, ours) == 1)) print "restarts", restarts, id
  }'
  systemctl list-units --failed --plain --no-legend --full | awk '{print "failed", $1}'
}

ask_sudo() { # COMMAND...
  local command
  [ "$EUID" != 0 ] || unasked "root needs none"
  command -v sudo >/dev/null || { printf 'missing\n'; return; }
  for command in "$@"; do
    # shellcheck disable=SC2086  # its words
    sudo -n -l $command >/dev/null 2>&1 || printf 'refused %s\n' "$command"
  done
  sudo -n -l 2>/dev/null | sed -n 's/^    \((.*\)/rule \1/p'
}

ask_ports() { # what listens where the world may come; a name is seen of one's own processes only
  printf 'ssh %s\n' "${SSH_CONNECTION##* }"
  ss -Htlnp | awk '{name = $6; sub(/^users:\(\("/, "", name); sub(/".*/, "", name); print "listens", $4, name}'
}
