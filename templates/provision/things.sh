# shellcheck shell=bash
# What every server is made of: packages, accounts, folders, files, links, units. `look_X NAME ...` says what there is,
# `make_X ...` makes it so; both may be called as often as one likes.

look_packages() { # NAME PACKAGE...
  local name=$1
  shift
  {
    { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } | sed -n 's/^installed //p' | sort
    if [ "$name" = packages ] && ! pgrep -x dpkg >/dev/null; then unfinished_packages | sed 's/^/interrupted while it was installed: /'; fi
  } | found "$name"
}

unfinished_packages() { # that dpkg was at when it was killed or lost its power: until they are finished, apt refuses everything
  dpkg-query -W -f '${db:Status-Status} ${db:Status-Eflag} ${Package}\n' 2>/dev/null |
    awk '$1 ~ /^(half-installed|unpacked|half-configured|triggers-awaited|triggers-pending)$/ || $2 == "reinstreq" {print $3}'
  if compgen -G '/var/lib/dpkg/updates/[0-9]*' >/dev/null; then echo dpkg; fi
}

# A lock of the accounts that lost its content with the power names nobody who holds it: useradd would refuse for ever.
remove_empty_locks() {
  find /etc -maxdepth 1 -type f -regex '/etc/\(passwd\|shadow\|group\|gshadow\|subuid\|subgid\)\.lock' -empty -mmin +0 -delete
}

finish_packages() {
  local left broken tries
  remove_empty_locks
  for ((tries = 0; tries < 300; tries++)); do # another run, as of unattended-upgrades, has them in hand
    pgrep -x dpkg >/dev/null || break
    sleep 1
  done
  left=$(unfinished_packages | sort -u | tr '\n' ' ')
  [ -n "$left" ] || return 0
  warn "an installation of packages was interrupted and is finished first: $left"
  DEBIAN_FRONTEND=noninteractive timeout -k 30 900 dpkg --force-confold --force-confdef --configure -a </dev/null 3>&- || true
  mapfile -t broken < <(dpkg-query -W -f '${db:Status-Eflag} ${Package}\n' | sed -n 's/^reinstreq //p')
  [ "${#broken[@]}" = 0 ] || apt_install --reinstall -- "${broken[@]}" || true
  apt_install --fix-broken || true
  left=$(unfinished_packages | sort -u | tr '\n' ' ')
  [ -z "$left" ] || die "an interrupted installation of packages cannot be finished: $left" \
    "as root on this server: dpkg --configure -a; a package that no archive has: dpkg --remove --force-remove-reinstreq PACKAGE"
}

make_packages() { # PACKAGE...
  if apt_get update; then UPDATED=yes; else warn "the list of packages could not be brought up to date: the one that is there is used"; fi
  finish_packages
  apt_install --no-install-recommends -- "$@" || die "not all packages could be installed" "the lines above are apt's; is the server connected to its mirrors?"
}

UPDATED='' # yes: the mirrors answer

apt_install() { # WORD...   a power loss may have cut the lists of packages short, which apt does not notice: then once with new ones
  apt_get install --yes "$@" && return
  [ -n "$UPDATED" ] || return 1
  UPDATED=
  find /var/lib/apt/lists -maxdepth 1 -type f ! -name lock -delete
  apt_get update && apt_get install --yes "$@"
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef "$@" </dev/null 3>&-
}

look_account() { # NAME USER GROUP...   the shell, and which of these groups it is in
  local name=$1 user=$2 shell group
  shift 2
  shell=$(getent passwd "$user" | cut -d : -f 7) || true
  {
    if [ -n "$shell" ]; then
      echo "shell $shell"
      for group in "$@"; do
        if id -nG "$user" | tr ' ' '\n' | grep -qx -- "$group"; then echo "group $group"; fi
      done
    fi
  } | found "$name"
}

make_account() { # USER login|service GROUP...
  local user=$1 kind=$2 group own=--user-group
  shift 2
  remove_empty_locks
  if getent group "$user" >/dev/null; then own=--gid=$user; fi # of a run that was cut off
  for group in "$@"; do
    getent group "$group" >/dev/null || groupadd --system "$group"
  done
  if ! id "$user" >/dev/null 2>&1; then
    if [ "$kind" = login ]; then
      useradd "$own" --create-home --shell /bin/bash "$user"
    else
      useradd --system "$own" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
    fi
  elif [ "$kind" = login ]; then
    usermod --shell /bin/bash "$user"
  else
    usermod --shell /usr/sbin/nologin "$user"
  fi
  for group in "$@"; do usermod --append --groups "$group" "$user"; done
}

key_name() { ssh-keygen -lf - <<<"$1" 2>/dev/null | cut -d ' ' -f 2-3 || echo '?'; }

home_of() { getent passwd "$1" | cut -d : -f 6; } # USER

make_git_key() { # USER COMMENT   the public half is told: it has to be registered at the git host
  local home
  home=$(home_of "$1")
  if [ -n "$(runuser -u "$1" -- find "$home/.ssh" -maxdepth 1 -name 'id_*.pub' 2>/dev/null)" ]; then return; fi
  runuser -u "$1" -- ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$home/.ssh/id_ed25519" </dev/null
  warn "register this as a read-only deploy key at the git host: $(runuser -u "$1" -- timeout 5 head -c 2000 "$home/.ssh/id_ed25519.pub")"
}

look_owner() { # NAME PATH   of a file whose content is nobody's business
  { stat -c '%F, %U:%G %a' "$2" 2>/dev/null | sed 's/^regular empty file/regular file/' || true; } | found "$1"
}

# Only where nobody but root writes; elsewhere tasks/server/make/file.py.
make_file() { # PATH OWNER GROUP MODE TEXT   never half written, never through a link, never readable meanwhile
  local aside=$1.fab-releases.$BASHPID
  keep "$1"
  mkdir -p "$(dirname "$1")"
  rm -f "$aside"
  (umask 077 && set -C && printf '%s' "$5" >"$aside")
  chown "$2:$3" "$aside"
  chmod "$4" "$aside"
  sync "$aside"
  mv -T "$aside" "$1"
}

look_unit() { # NAME UNIT
  { echo "$(systemctl is-enabled "$2" 2>/dev/null || true), $(systemctl is-active "$2" 2>/dev/null || true)"; } | found "$1"
}

make_unit() { # UNIT
  systemctl enable --quiet "$1"
  systemctl start "$1" || { journalctl --no-pager --quiet --output=cat --lines=20 --unit "$1"; die "$1 does not start" "its last lines are above"; }
}

make_enabled() { systemctl enable --quiet "$1"; } # UNIT

running() { # UNIT...   after a reload or restart
  local unit
  for unit in "$@"; do
    systemctl is-active --quiet "$unit" || { journalctl --no-pager --quiet --output=cat --lines=20 --unit "$unit"; return 1; }
  done
}

reload_units() { systemctl daemon-reload; }

reload() { # UNIT
  systemctl reload-or-restart "$1" && running "$1"
}

restart() { # UNIT
  systemctl restart "$1" && running "$1"
}

restart_anew() { # UNIT   what says how it is started may have changed, too
  systemctl daemon-reload
  restart "$1"
}

look_enabled() { # NAME UNIT
  { systemctl is-enabled "$2" 2>/dev/null || true; } | found "$1"
}

units_verified() { # PATH...   what systemd itself thinks of them; of other units nothing is said
  local said
  systemctl daemon-reload
  said=$(systemd-analyze verify --man=no "$@" 2>&1 | grep -F "${PATHS_OF_UNITS:-/etc/systemd/system/$APPLICATION}" || true)
  [ -z "$said" ] || { printf '%s\n' "$said"; return 1; }
}
