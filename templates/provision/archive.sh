# shellcheck shell=bash
# WAL archiving by pgBackRest: a key that is made once, a stanza, and PostgreSQL told to archive.

# What is there already was encrypted with the key that is there, or with the one of the server that was lost.
make_archive_key() { # PATH KEY
  local begun kept=/var/lib/fab-releases/recovered$1
  if [ ! -f "$1" ] && [ -f "$kept" ]; then
    make_file "$1" root postgres 640 "$(cat "$kept")
"
  fi
  if [ ! -f "$1" ]; then
    begun=$(archive_begun --repo1-cipher-type=none)
    case $begun in
      '') ;;
      'stanza main') die "there is an archive already, whose key is not in $1" "put the key back, or name another place in [backup] archive" ;;
      *) die "the archive cannot be asked: ${begun#stanza: }" "[backup] archive and what its variables say" ;;
    esac
    make_file "$1" root postgres 640 "[global]
repo1-cipher-pass=$2
"
  fi
  chown root:postgres "$1"
  chmod 640 "$1"
}

look_archive() { # NAME   what PostgreSQL does now, and whether there is a place for it
  {
    as_postgres -d postgres -c "select 'archive_mode ' || setting from pg_settings where name = 'archive_mode'" 2>/dev/null || true
    if [ -x /usr/bin/pgbackrest ]; then archive_begun; fi
  } | found "$1"
}

archive_begun() { # OPTION...   "stanza main", nothing, or why nobody can say
  local listed
  if listed=$(as_archiver repo-ls --io-timeout=2 "$@" archive/main 2>&1); then
    if grep -qx archive.info <<<"$listed"; then echo 'stanza main'; fi
  else
    listed=${listed##*ERROR: }
    [[ ! $listed =~ \<Code\>([A-Za-z]+)\</Code\> ]] || listed="${listed%%$'\n'*} ${BASH_REMATCH[1]}"
    echo "stanza: ${listed%%$'\n'*}"
  fi
}

make_archive() { # COMMAND   nobody else's archive is taken away from them
  local other
  other=$(as_postgres -d postgres -v "ours=$1" <<<"select current_setting('archive_command')
    where current_setting('archive_mode') <> 'off' and current_setting('archive_command') not in ('', :'ours')")
  [ -z "$other" ] || die "PostgreSQL archives already: archive_command is $other" "set [backup] engine to \"dump\", or take that setting away"
}

use_archive() { # VERSION SETTINGS APPLICATION
  if [ ! -f "$2" ]; then use_postgresql "$1"; return; fi # put back
  await_postgresql || return 1
  as_archiver stanza-create || as_archiver stanza-upgrade || return 1
  # PostgreSQL may be busy with a command of before, that still asks where nobody answers.
  use_postgresql "$1" && as_archiver check --archive-timeout=100 && takes_segments || return 1
  restart "$3-archive.timer" || return 1
  systemctl start --no-block "$3-archive.service"
}

# `check` is content with a segment of that name, whoever has archived it.
takes_segments() {
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    if [ "$(as_postgres -d postgres -c "select last_archived_time > coalesce(last_failed_time, '-infinity') from pg_stat_archiver")" = t ]; then return; fi
    sleep 0.1
  done
  echo "what PostgreSQL archives is refused: what pgbackrest says is in its log, /var/log/postgresql"
  return 1
}

as_archiver() { (cd / && exec runuser -u postgres -- pgbackrest --stanza=main --log-level-console=warn "$@"); }
