# shellcheck shell=bash
# WAL archiving by pgBackRest: a key that is made once, a stanza, and PostgreSQL told to archive.

# What is there already was encrypted with the key that is there, or with the one of the server that was lost.
make_archive_key() { # PATH FOLDER KEY
  local kept=/var/lib/fab-releases/recovered$1
  if [ ! -f "$1" ] && [ -f "$kept" ]; then
    make_file "$1" root postgres 640 "$(cat "$kept")
"
  fi
  if [ ! -f "$1" ]; then
    [ ! -e "$2/archive/main" ] || die "$2 holds an archive whose key is not in $1" "put the key back, or move the archive away"
    make_file "$1" root postgres 640 "[global]
repo1-cipher-pass=$3
"
  fi
  # On a disk that outlived a server they have the number that postgres had there.
  if [ -f "$2/archive/main/archive.info" ] && ! runuser -u postgres -- test -w "$2/archive/main/archive.info"; then
    chown -R postgres: "$2" || die "postgres may not write to $2" "its number was another on the lost server: chown -R postgres: $2 where that can be done"
  fi
  chown root:postgres "$1"
  chmod 640 "$1"
}

look_archive() { # NAME FOLDER   what PostgreSQL does now, and whether there is a place for it
  {
    as_postgres -d postgres -c "select 'archive_mode ' || setting from pg_settings where name = 'archive_mode'" 2>/dev/null || true
    if [ -f "$2/archive/main/archive.info" ]; then echo "stanza main"; fi
  } | found "$1"
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
  use_postgresql "$1" && as_archiver check || return 1
  restart "$3-archive.timer" || return 1
  systemctl start --no-block "$3-archive.service"
}

as_archiver() { (cd / && exec runuser -u postgres -- pgbackrest --stanza=main --log-level-console=warn "$@"); }
