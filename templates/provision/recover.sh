# shellcheck shell=bash
# A lost server: what was sent away is fetched back, and put in its place before anything serves it. RECOVERED has it as
# it was there; what nobody puts back is told.

RECOVERED=/var/lib/fab-releases/recovered

is_bare() { # DATABASE   "": none is ours here
  [ ! -L "$DEPLOY_TO/current" ] || die "$(current_id) is live here" "recover is for a bare server; fab restore-db puts a database back"
  [ -z "$1" ] || is_free "$1"
}

is_free() { # DATABASE   there is none, an empty one, or one that a recover filled
  if has_tables "$1" && ! is_filled_by_us "$1" begun && ! is_filled_by_us "$1" restored; then
    die "the database $1 is here, and not empty" "recover is for a bare server; fab restore-db puts a database back"
  fi
}

is_filled_by_us() { # DATABASE begun|restored [SHA256]   the very one: another of that name has another number
  grep -qs "^$2 ${3:-.*} $(number_of "$1")\$" "$STATE/$APPLICATION-recovered"
}

filled_by_us() { # DATABASE begun|restored SHA256
  printf '%s %s %s\n' "$2" "$3" "$(number_of "$1")" | write_synced "$STATE/$APPLICATION-recovered"
}

number_of() { # DATABASE
  as_postgres -d postgres -v "name=$1" <<<"select oid from pg_database where datname = :'name'"
}

has_tables() { # DATABASE
  [ "$(as_postgres -d "$1" <<<"select count(*) from pg_class where relkind in ('r', 'p') and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'" 2>/dev/null || echo 0)" != 0 ]
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

recovered_keys() { # USER_THERE USER KEYS   what lets USER fetch from git, and with KEYS who may log in; none that is here goes
  local home from file name
  make_account "$2" login
  home=$(home_of "$2") from=$RECOVERED$(field_of passwd "$1" 6)/.ssh
  [ -d "$from" ] || return 0
  install -d -m 700 -o "$2" -g "$(id -gn "$2")" "$home/.ssh"
  for file in "$from"/*; do
    name=${file##*/}
    if [ ! -f "$file" ] || [ -L "$file" ]; then continue; fi
    case $name in
      authorized_keys) [ -z "$3" ] || merge_lines "$file" "$home/.ssh/$name" ;;
      known_hosts) merge_lines "$file" "$home/.ssh/$name" ;;
      *) [ -e "$home/.ssh/$name" ] || install -m 600 "$file" "$home/.ssh/$name" ;;
    esac
    if [ -e "$home/.ssh/$name" ]; then chown "$2:" "$home/.ssh/$name" && chmod 600 "$home/.ssh/$name"; fi
  done
}

merge_lines() { # FROM TO
  local line
  touch "$2"
  if [ -n "$(tail -c 1 "$2")" ]; then echo >>"$2"; fi
  while IFS= read -r line || [ -n "$line" ]; do
    grep -qxF -- "$line" "$2" || printf '%s\n' "$line" >>"$2"
  done <"$1"
}

field_of() { # passwd|group NAME_OR_ID FIELD   as the lost server had it
  awk -F : -v asked="$2" -v field="$3" '$1 == asked || (asked ~ /^[0-9]+$/ && $3 == asked) { print $field; exit }' "$RECOVERED/etc/$1" 2>/dev/null
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

recovered_certificates() { # PATH...   certificates, the account they were obtained with, and the files that were put there
  local path
  if [ -d "$RECOVERED/etc/letsencrypt" ] && [ ! -d /etc/letsencrypt/live ]; then cp -a "$RECOVERED/etc/letsencrypt" /etc/; fi
  for path in "$@"; do
    if [ -f "$RECOVERED$path" ] && [ ! -e "$path" ]; then
      mkdir -p "$(dirname "$path")"
      install -m "$(stat -L -c %a "$RECOVERED$path")" "$RECOVERED$path" "$path" # root's, as nginx reads it
    fi
  done
}

# --- files

recovered_files() { # SHARED_THERE USER_THERE=USER APP_USER_THERE=APP_USER LEFT_OUT...   names, not numbers: ids differ between servers
  local from=$RECOVERED$1 path
  own_by_name "$from" "$2" "$3"
  for path in "$from"/* "$from"/.[!.]*; do
    if [ ! -e "$path" ] || is_among "${path##*/}" .fab-restore "${@:4}"; then continue; fi
    # The same bytes under a second name: a run that was cut off has left no half file.
    cp -a --link --force "$path" "$SHARED/" 2>/dev/null || cp -a --force "$path" "$SHARED/"
  done
  : >"$PRIVATE/recovered" # what a first deploy does was done long ago
  fact files "$(find "$SHARED" -type f | wc -l)"
}

is_among() { # WORD WORD...
  local one word=$1
  shift
  for one in "$@"; do
    [ "$one" != "$word" ] || return 0
  done
  return 1
}

own_by_name() { # FOLDER WAS=IS...   who is not known here becomes the last IS. All is looked at before anything is changed
  local folder=$1 lists pair user group
  shift
  lists=$(mktemp -d "$STATE/owners.XXXXXX")
  while read -r pair; do
    find "$folder" -uid "${pair%:*}" -gid "${pair#*:}" -print0 >"$lists/$pair"
  done < <(find "$folder" -printf '%U:%G\n' | sort -u)
  for pair in "$lists"/*; do
    user=$(known_here passwd "$(basename "$pair" | cut -d : -f 1)" "$@")
    group=$(known_here group "$(basename "$pair" | cut -d : -f 2)" "$@")
    xargs -0 -r chown -h "$user:$group" <"$pair"
  done
  rm -rf "$lists"
}

known_here() { # passwd|group ID WAS=IS...
  local name one last=
  name=$(field_of "$1" "$2" 1)
  for one in "${@:3}"; do
    last=${one#*=}
    if [ "${one%%=*}" = "$name" ]; then
      printf '%s' "$last"
      return
    fi
  done
  if [ -n "$name" ] && getent "$1" "$name" >/dev/null; then printf '%s' "$name"; else printf '%s' "$last"; fi
}

recovered_history() { # DEPLOY_TO_THERE USER   backups of the database, and what was live when
  mkdir -p "$DEPLOY_TO/backups/database"
  cp -a --force "$RECOVERED$1/backups/database/." "$DEPLOY_TO/backups/database/" 2>/dev/null || true
  [ ! -f "$RECOVERED$1/.releases/journal.jsonl" ] || cp -a "$RECOVERED$1/.releases/journal.jsonl" "$PRIVATE/"
  chown -R "$2:" "$DEPLOY_TO/backups" "$PRIVATE"
  chmod 700 "$DEPLOY_TO/backups" "$DEPLOY_TO/backups/database"
}

# What the lost release ran with: the next release of that commit is built with the same versions (build.sh: as_installed).
recovered_requirements() { # APPLICATION_THERE COMMIT PYTHON_THERE PYTHON USER
  local from now
  from=$(facts_of "$1")/requirements
  if [ ! -f "$from" ]; then
    warn "the snapshot does not say which versions were installed: what the commit leaves open may be newer now"
    return
  fi
  now=$("python${4:-3}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || now='another one'
  [ "${3%.*}" = "$now" ] || warn "Python was $3 there, and is $now here: not every version that was installed may fit"
  grep -E '^[A-Za-z0-9._-]+==' "$from" >"$PRIVATE/as-installed.${2:0:7}" || true
  chown "$5:" "$PRIVATE/as-installed.${2:0:7}"
}

recovered_crontabs() { # USER...
  local user
  for user in "$@"; do
    if [ ! -f "$RECOVERED/var/spool/cron/crontabs/$user" ]; then continue; fi
    command -v crontab >/dev/null || make_packages cron
    crontab -u "$user" "$RECOVERED/var/spool/cron/crontabs/$user"
  done
}

# --- the database

# Roles that provisioning makes are as it made them; of the others everything comes back. PASSWORDS "": without theirs.
recovered_roles() { # APPLICATION_THERE PASSWORDS
  local from known
  from=$(facts_of "$1")/globals.sql
  if [ ! -f "$from" ]; then
    warn "there are no roles in the snapshot: what others than $1 own or may see cannot come back"
    return
  fi
  known=$(as_postgres -d postgres <<<"select quote_ident(rolname) from pg_roles")
  # One transaction: a role without its password must not be taken for one that is complete.
  roles_not_among "$known" <"$from" | without_passwords "$2" | as_postgres -d postgres -1 -f - >/dev/null ||
    die "the roles of the lost server were not accepted" "the lines above are PostgreSQL's; they are in $from"
}

roles_not_among() { # NAMES   a filter; postgres and tablespaces are each server's own
  awk -v names="$1" '
    BEGIN { split(names, list, "\n"); for (i in list) known[list[i]] = 1 }
    function name_after(words,   rest) {
      rest = substr($0, length(words) + 1)
      if (rest ~ /^"/) { match(rest, /^"([^"]|"")*"/); return substr(rest, 1, RLENGTH) }
      match(rest, /^[^ ;]+/); return substr(rest, 1, RLENGTH)
    }
    /^\\/ || /^(CREATE|ALTER) TABLESPACE / || /^ALTER ROLE postgres / { next }
    /^CREATE ROLE / && known[name_after("CREATE ROLE ")] { next }
    /^ALTER ROLE / && known[name_after("ALTER ROLE ")] && substr($0, 12 + length(name_after("ALTER ROLE "))) ~ /^ WITH / { next }
    { print }'
}

without_passwords() { # YES   "" strips them, a filter
  if [ -n "$1" ]; then cat; else sed -E "s/^(ALTER ROLE .*) PASSWORD '[^']*'/\1/"; fi
}

# Into a database that nothing serves: made as it was, with what belongs to the database itself, filled by all cores, its
# rows counted. What a run that was cut off has left of it is known by its mark, and dropped.
recovered_database() { # DEPLOY_TO_THERE DATABASE OWNER   DATABASE "": as it was called
  local newest file sum was is name
  if [ -f "$STATE/$APPLICATION-recovered-moment" ] && is_filled_by_us "$APPLICATION" restored; then return 0; fi
  newest=$(newest_backup "$RECOVERED$1/backups/database")
  [ -n "$newest" ] || die "there is no backup of the database in the snapshot" "is it of this stage?"
  file=${newest%.json}.dump
  sum=$(json_value sha256 <"$newest")
  printf '%s  %s\n' "$sum" "$file" | sha256sum --quiet --check - || die "$file is not what was written" "recover --snapshot names an older one"
  was=$(pg_restore --list "$file" | sed -n 's/^; *dbname: //p' | head -n 1)
  is=${2:-$was}
  fact database "$(basename "$file" .dump)"
  if has_tables "$is" && is_filled_by_us "$is" restored "$sum"; then return 0; fi
  for name in "$is" "$was"; do
    if has_tables "$name" && ! is_filled_by_us "$name" begun; then
      die "the database $name is not empty" "recover is for a bare server; fab restore-db puts a database back"
    fi
    drop_database "$name"
  done
  database_itself "$file" | as_postgres -d postgres >/dev/null || die "the database was not made" "the lines above are PostgreSQL's: a role or a locale of the lost server?"
  filled_by_us "$was" begun "$sum"
  fill_database "$was" "$file"
  rows_are_right "$was" "$newest"
  as_postgres -d "$was" <<<analyze
  [ "$was" = "$is" ] || rename_database "$was" "$is" "$3"
  filled_by_us "$is" restored "$sum"
}

newest_backup() { # FOLDER   not what the archive was asked for: that is of another moment than its name
  local one
  for one in "$1"/2*.json; do
    if [ -f "$one" ] && [ -f "${one%.json}.dump" ] && [ "$(json_value kind <"$one")" != moment ]; then printf '%s\n' "$one"; fi
  done | sort | tail -n 1
}

json_value() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" | head -n 1; } # KEY

drop_database() { # NAME
  printf '\\set name %s\n%s\n' "'${1//\'/}'" 'set client_min_messages = error; drop database if exists :"name" with (force);' | as_postgres -d postgres
}

database_itself() { # FILE   -> SQL: encoding, owner, settings, comment, limits and grants, which no restore into one made by hand brings
  local list
  list=$(mktemp)
  pg_restore --list --create "$1" | grep -E '^[0-9]+; [0-9]+ [0-9]+ (DATABASE|DATABASE PROPERTIES|COMMENT - DATABASE|ACL - DATABASE|SECURITY LABEL - DATABASE) ' >"$list"
  pg_restore --create --no-tablespaces --use-list "$list" --file - "$1" | grep -v '^\\\(un\)\?restrict '
  rm -f "$list"
}

fill_database() { # DATABASE FILE   a copy that postgres may read: as seekable as all cores need it
  local copy
  copy=$(mktemp -d "$STATE/dump.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$copy'" EXIT
  cp --reflink=auto "$2" "$copy/dump"
  chown -R postgres: "$copy"
  (cd / && exec runuser -u postgres -- pg_restore --exit-on-error --no-tablespaces "--jobs=$(nproc)" "--dbname=$1" "$copy/dump") ||
    die "the database was not restored" "the lines above are pg_restore's; an extension whose package is missing? $(facts_of "$APPLICATION")/packages says what was installed"
  rm -rf "$copy"
  trap - EXIT
}

rows_are_right() { # DATABASE MANIFEST
  local wanted found manifest
  manifest="json_each_text(\$manifest\$$(cat "$2")\$manifest\$::json -> 'rows')"
  wanted=$(as_postgres -d "$1" <<<"select key, value from $manifest order by key collate \"C\"")
  found=$(as_postgres -d "$1" <<<"select format('select %L, count(*) from only %s', key, key) from $manifest order by key collate \"C\" \\gexec") || true
  if [ "$found" != "$wanted" ]; then
    diff <(printf '%s\n' "$wanted") <(printf '%s\n' "$found") | head -n 10 || true
    die "the database has other rows than the manifest says (< manifest, > database)" "it is not what was backed up; recover --snapshot names an older one"
  fi
}

rename_database() { # FROM TO OWNER   of a stage that calls it otherwise; what OWNER of old has is of the new one
  {
    printf '\\set was %s\n\\set is %s\n\\set owner %s\n' "'$1'" "'$2'" "'$3'"
    printf '%s\n' 'select pg_get_userbyid(datdba) as old from pg_database where datname = :'"'was'"' \gset' \
      'reassign owned by :"old" to :"owner"; grant :"old" to :"owner";' '\connect postgres' \
      'alter database :"was" rename to :"is"; alter database :"is" owner to :"owner";' \
      'grant connect, create, temporary on database :"is" to :"owner";'
  } | as_postgres -d "$1"
}

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
  names=$(sed -n 's/^CREATE TABLESPACE \([^ ]*\) .*/\1/p' "$there/globals.sql" 2>/dev/null | tr '\n' ' ') || true
  remains "tablespaces" "$names" "everything is in the default one now"
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
