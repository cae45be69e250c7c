# shellcheck shell=bash
# A lost server: what was sent away is fetched back, and put in its place before anything serves it. RECOVERED has it as
# it was there; what nobody puts back is told.

RECOVERED=/var/lib/fab-releases/recovered

is_bare() {
  [ ! -L "$DEPLOY_TO/current" ] || die "$(current_id) is live here" "recover is for a bare server; fab restore-db puts a database back"
}

forget_recovered() { rm -rf "${RECOVERED:?}"; } # what an earlier run fetched

fetch_snapshot() { # REPOSITORY KEY VARIABLES HOST SNAPSHOT PATH...   all that is in it, or what is below PATHs
  local path words=()
  open_repository "$1" "$2" "$3"
  install -d -m 755 "$STATE" # PostgreSQL has its copy of the dump there
  install -d -m 700 "$RECOVERED"
  for path in "${@:6}"; do words+=(--include "$path"); done
  # Only read: without a lock, which would be written there.
  restic --quiet --no-lock restore "$5" --host "$4" --tag fab-releases --target "$RECOVERED" "${words[@]}" ||
    die "nothing of $4 could be fetched from $1" "is it the right key, and may this server reach it? the lines above are restic's"
  fact snapshot "$(restic --quiet --no-lock snapshots "$5" --host "$4" --json 2>/dev/null | sed -n 's/.*"time":"\([^"]*\)".*/\1/p' | head -n 1)"
  close_repository
}

fetch_own() { # REPOSITORY KEY VARIABLES HOST PATH...   what the database's own host sent, where there is any; of it, what is below PATHs
  local found path words=()
  for path in "${@:5}"; do words+=(--include "$path"); done
  open_repository "$1" "$2" "$3"
  found=$(restic --quiet --no-lock snapshots --host "$4" --tag fab-releases --json) || die "nothing could be read from $1" "the lines above are restic's"
  if [[ $found == *'"time"'* ]]; then
    restic --quiet --no-lock restore latest --host "$4" --tag fab-releases --target "$RECOVERED" "${words[@]}" || die "nothing of $4 could be fetched from $1" "the lines above are restic's"
  else
    warn "nothing was ever sent from the database's own host: only roles that are made by fab provision come back"
  fi
  close_repository
}

open_repository() { # REPOSITORY KEY VARIABLES   not asked for long: where packets are dropped, restic tries for minutes
  local line said status=0
  export RESTIC_REPOSITORY=$1 RESTIC_PASSWORD_FILE=/run/fab-releases.$BASHPID HOME=/root
  trap close_repository EXIT
  (umask 077 && printf '%s' "$2" >"$RESTIC_PASSWORD_FILE")
  while IFS= read -r line; do
    [ -z "$line" ] || export "${line?}"
  done <<<"$3"
  said=$(timeout --kill-after=5 60 restic --quiet --no-lock cat config 2>&1 >/dev/null) || status=$?
  if [ "$status" = 124 ] || [ "$status" = 137 ]; then die "$1 did not answer in 60 s" "is it there, and may this server reach it?"; fi
  [ "$status" != 0 ] || return 0
  said=$(grep -vxF -e "$1" -e 'Is there a repository at the following location?' <<<"$said" | head -n 3 | paste -sd ' ') || true
  die "$1 cannot be opened: ${said#Fatal: }" "is it the right key, and may this server reach it?"
}

close_repository() {
  rm -f "$RESTIC_PASSWORD_FILE"
  trap - EXIT
}

facts_of() { printf '%s' "$RECOVERED/var/lib/fab-releases/offsite/$1"; } # APPLICATION

tell_release() { # APPLICATION   which one was live
  local file
  file=$(facts_of "$1")/release.json
  [ -f "$file" ] || die "the snapshot does not say which release was live" "recover --snapshot names another one"
  fact release "$(tr -d '\n' <"$file")"
}

# --- before anything is provisioned

merge_lines() { # FROM TO
  local line
  touch "$2"
  if [ -n "$(tail -c 1 "$2")" ]; then echo >>"$2"; fi
  while IFS= read -r line || [ -n "$line" ]; do
    grep -qxF -- "$line" "$2" || printf '%s\n' "$line" >>"$2"
  done <"$1"
}

recovered_clock_and_language() { # time zone and locales: timers, and databases that were made with one, need them
  local zone wanted
  zone=$(readlink "$RECOVERED/etc/localtime" | sed 's,.*/zoneinfo/,,') || true
  if [ -n "$zone" ] && [ "$(readlink /etc/localtime | sed 's,.*/zoneinfo/,,')" != "$zone" ]; then
    [ -e "/usr/share/zoneinfo/$zone" ] || make_packages tzdata
    ln -sfn "/usr/share/zoneinfo/$zone" /etc/localtime
    if [ -f /etc/timezone ]; then printf '%s\n' "$zone" >/etc/timezone; fi
  fi
  wanted=$(grep -hE '^[[:space:]]*[^#[:space:]]' "$RECOVERED/etc/locale.gen" 2>/dev/null | sort -u) || true
  if [ -n "$wanted" ] && [ "$(grep -hE '^[[:space:]]*[^#[:space:]]' /etc/locale.gen 2>/dev/null | sort -u)" != "$wanted" ]; then
    make_packages locales
    merge_lines <(printf '%s\n' "$wanted") /etc/locale.gen
    locale-gen >/dev/null
  fi
  [ ! -f "$RECOVERED/etc/default/locale" ] || cp "$RECOVERED/etc/default/locale" /etc/default/locale
}

recovered_certificates() { # those of certbot, and the account they were obtained with
  if [ -d "$RECOVERED/etc/letsencrypt" ] && [ ! -d /etc/letsencrypt/live ]; then cp -a "$RECOVERED/etc/letsencrypt" /etc/; fi
}

is_among() { # WORD WORD...
  local one word=$1
  shift
  for one in "$@"; do
    [ "$one" != "$word" ] || return 0
  done
  return 1
}

recovered_crontabs() { # USER...
  local user
  for user in "$@"; do
    if [ ! -f "$RECOVERED/var/spool/cron/crontabs/$user" ]; then continue; fi
    command -v crontab >/dev/null || make_packages cron
    crontab -u "$user" "$RECOVERED/var/spool/cron/crontabs/$user"
  done
}

json_value() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" | head -n 1; } # KEY

# --- what is left to a person

tell_remaining() { # APPLICATION_THERE USER APP_USER
  local there path names
  there=$(facts_of "$1")
  names=$(comm -23 <(sort "$there/packages" 2>/dev/null) <(dpkg-query -W -f '${Package}\n' | sort) | tr '\n' ' ')
  remains "packages that were asked for there" "$names" "apt-get install"
  names=$(comm -23 <(awk -F : '$3 >= 1000 && $3 < 60000 { print $1 }' "$RECOVERED/etc/passwd" | sort) <(cut -d : -f 1 /etc/passwd | sort) | tr '\n' ' ')
  remains "accounts" "$names" "adduser"
  names=$(cd "$RECOVERED" && for path in etc/cron.*/* etc/systemd/system/* etc/nginx/{conf.d,sites-enabled}/* etc/{sudoers,sysctl,logrotate}.d/* \
    etc/ssh/sshd_config.d/* etc/apt/sources.list.d/* etc/postgresql/*/main/conf.d/* etc/udev/rules.d/* etc/profile.d/*; do
    if { [ -f "$path" ] || [ -L "$path" ]; } && [ ! -e "/$path" ] && [ ! -L "/$path" ]; then printf '/%s ' "$path"; fi
  done)
  remains "files" "$names" "they are below $RECOVERED"
  names=$(for path in "$RECOVERED"/var/spool/cron/crontabs/*; do
    if [ -f "$path" ] && ! is_among "${path##*/}" "$2" "$3"; then printf '%s ' "${path##*/}"; fi
  done)
  remains "crontabs of" "$names" "they are in $RECOVERED/var/spool/cron/crontabs"
  names=$(comm -23 <(sort "$there/firewall" 2>/dev/null) <(ufw show added 2>/dev/null | sed -n 's/^ufw //p' | sort) | paste -sd ';' | sed 's/;/; /g')
  remains "firewall rules" "$names" "ufw RULE, for each you still want"
  names=$(comm -23 <(keys_in "$RECOVERED/root/.ssh/authorized_keys") <(keys_in /root/.ssh/authorized_keys) | paste -sd ';' | sed 's/;/; /g')
  remains "keys that let root in" "$names" "they are in $RECOVERED/root/.ssh/authorized_keys"
  names=$(cd "$RECOVERED" && for path in etc/postgresql/*/main/{pg_hba.conf,postgresql.conf}; do
    if [ -f "$path" ] && [ -f "/$path" ] && [ -n "$(lines_missing "$path" "/$path")" ]; then printf '/%s ' "$path"; fi
  done)
  remains "lines in" "$names" "compare them with those below $RECOVERED"
  names=$(sed -n 's/^\([a-z_.]* =\).*/\1/p' "$there/postgresql.auto.conf" 2>/dev/null | tr -d '=' | tr -s ' \n' ' ') || true
  remains "settings of ALTER SYSTEM" "$names" "they are in $there/postgresql.auto.conf"
}

remains() { # WHAT NAMES HINT
  local names=${2% }
  [ -z "$names" ] || mark remains "$1" "$names" "$3"
}

keys_in() { # PATH   by what may be shown of them
  local key
  { grep -hE '(ssh-|ecdsa-|sk-)' "$1" 2>/dev/null || true; } | while IFS= read -r key; do key_name "$key"; done | sort -u
}

lines_missing() { # FROM IN   comments and blanks aside
  comm -23 <(meant "$1") <(meant "$2")
}

meant() { sed -E 's/#.*//; s/[[:space:]]+/ /g; s/ $//; /^$/d' "$1" | sort -u; } # PATH

# Big, or secret, and in its place by now. ALL: nothing of it is to stay on a server that is not production's.
tidy_recovered() { # DEPLOY_TO_THERE ALL
  if [ -n "$2" ]; then rm -rf "${RECOVERED:?}"; else rm -rf "${RECOVERED:?}${1:?}"; fi
}
