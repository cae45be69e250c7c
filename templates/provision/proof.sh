# shellcheck shell=bash
# What may shut us out undoes itself, unless a second connection proves the way in.

UNDO_AFTER=60 # seconds
UNPROVEN=$STATE/unproven # a file for each: the commands that undo it; emptied when they have run, removed when proven

until_proven() { # NAME COMMANDS   which undo it, also when nobody is connected any more; said before it is changed
  undone "$1"
  mkdir -p "$UNPROVEN"
  printf '%s\n' "$2" >"$UNPROVEN/$1"
  systemd-run --quiet --collect --unit="fab-releases-undo-$1" --on-active="$UNDO_AFTER" --timer-property=AccuracySec=1s \
    bash -c "bash '$UNPROVEN/$1'; : >'$UNPROVEN/$1'"
}

proven() { # NAME
  stop_undo "$1"
  rm -f "$UNPROVEN/$1"
}

undone() { # NAME   at once; nothing where nothing waits for proof
  if [ ! -s "$UNPROVEN/$1" ]; then return; fi
  stop_undo "$1"
  bash "$UNPROVEN/$1"
  : >"$UNPROVEN/$1"
}

stop_undo() { # NAME
  systemctl stop "fab-releases-undo-$1.timer" 2>/dev/null || true
  systemctl reset-failed "fab-releases-undo-$1.service" 2>/dev/null || true
}
