# shellcheck shell=bash
# What is asked of the application itself, in as few starts of it as possible.

project() { # DIR VERB JSON   its last line that is JSON is the answer, everything else is its log
  local line status=0
  ANSWER=
  while IFS= read -r line; do
    case $line in
      '') ;;
      'exit '[0-9]*) status=${line#exit } ;;
      '{'*) ANSWER=$line ;;
      'fab-releases: '*) warn "${line#*: }" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done < <(
    set +e
    in_release "$1" "$1/.venv/bin/python" "$1/.release/project.py" "$2" "$3" 2>&1 3>&-
    printf '\nexit %d\n' "$?"
  )
  [ -z "$ANSWER" ] || fact "$2" "$ANSWER"
  return "$status"
}

answer() { # KEY   of a list, a line each
  printf '%s' "$ANSWER" | python3 -IS -c 'import json, sys
found = json.loads(sys.stdin.read() or "{}").get(sys.argv[1]) or ""
print(*found if isinstance(found, list) else [found], sep="\n", end="")' "$1"
}

refuse() { # WHAT   with the reason the application gave
  local reason
  reason=$(answer error)
  die "$1${reason:+: $reason}" "$(answer hint)"
}

inspect() { # ID JSON
  local dir=$RELEASES/$1 line
  project "$dir" inspect "$2" || refuse "the release was refused"
  printf '%s' "$ANSWER" >"$dir/.release/inspect.json"
  while IFS= read -r line; do [ -z "$(current_id)" ] || warn "$line"; done < <(remember "$dir/.release")
  [ -f "$dir/.release/unapplied" ]
}

# What later steps read; prints what each migration to come does to the release that is live.
remember() { # DIR
  python3 -IS - "$1" <<'PY'
import json, sys
BREAKS = {
    "destructive": "takes away or narrows what the live release uses",
    "renames": "renames what the live release uses",
    "additive_not_null": "adds a column that the live release does not fill, so that it cannot add rows",
}
seen = json.load(open(sys.argv[1] + "/inspect.json"))
for name in ("known", "applied"):
    with open(f"{sys.argv[1]}/{name}.json", "w") as file:
        json.dump(seen[name], file)
with open(sys.argv[1] + "/unapplied", "w") as file:
    file.write(str(len(seen["migrations"])))
for one in seen["migrations"]:
    for name, what in BREAKS.items():
        if one[name]:
            print(f"{one['app']}.{one['name']} {what}: from now until the switch, and after a code-only rollback")
PY
}

# Hosts that deploy without the one that migrates: only what needs no migration may go live there.
same_migrations() { # ID WHO_MIGRATES
  cmp -s "$RELEASES/$1/.release/migrations.key" "$RELEASES/$(current_id)/.release/migrations.key" ||
    die "this revision has other migrations than the live one, and $2, which runs them, does not take part" "leave out -H"
}

# Before the schema changes: a way back. Then the migrations, once. What was applied before is kept for the way back.
migrate() { # ID RESTORE_POINT JSON PATIENCE   PATIENCE: seconds for a backup that runs, which holds every table
  local dir=$RELEASES/$1 count patience=$4
  count=$(cat "$dir/.release/unapplied" 2>/dev/null || echo 0)
  fact unapplied "$count"
  if [ "$count" = 0 ]; then return; fi
  if [ "$2" = yes ]; then
    mkdir -p "$DEPLOY_TO/backups/restore-points"
    chmod 700 "$DEPLOY_TO/backups/restore-points"
    project "$dir" restore-point "{\"directory\": \"$DEPLOY_TO/backups/restore-points\", \"name\": \"$1\", \"patience\": $4}" ||
      refuse "no restore point could be taken, so nothing was migrated"
  fi
  cp "$dir/.release/applied.json" "$dir/.release/applied-before.json"
  if [ "$2" = yes ]; then patience=0; fi
  if project "$dir" migrate "${3%\}}, \"patience\": $patience, \"restore_point\": \"$2\"}"; then return; fi
  if [ -n "$(answer failed)" ] && [ -z "$(answer atomic)" ]; then answer failed >"$dir/.release/half-migrated"; fi
  refuse "a migration failed"
}

# Undo of migrate: reverses what it applied, by the code that knows how.
unmigrate() { # ID
  local dir=$RELEASES/$1 half
  [ -f "$dir/.release/applied-before.json" ] || return 0
  half=$(cat "$dir/.release/half-migrated" 2>/dev/null) || true
  project "$dir" reverse "{\"to\": $(cat "$dir/.release/applied-before.json"), \"left_by\": \"$half\"}" ||
    refuse "the schema stays ahead of the code that is served now, which may be unable to write"
  rm -f "$dir/.release/applied-before.json"
}

reverse() { # ID_THAT_KNOWS ID_TO_GO_BACK_TO MORE_JSON   (MORE: ', "plan_only": true')
  project "$RELEASES/$1" reverse "{\"to\": $(may_stay "$1" "$2")$3}" || refuse "the migrations cannot be reversed"
}

may_stay() { # ID_THAT_KNOWS ID   what ID knows, and what neither does: that was there before, and both live with it
  python3 -IS - "$RELEASES/$2/.release/known.json" "$RELEASES/$1/.release/applied.json" "$RELEASES/$1/.release/known.json" <<'PY'
import json, sys
wanted, found, known = (set(json.load(open(path))) for path in sys.argv[1:])
print(json.dumps(sorted(wanted | (found - known))))
PY
}

migrate_again() { # ID   undo of reverse
  project "$RELEASES/$1" migrate '{}' || refuse "the schema stays behind the code that is served now"
}
