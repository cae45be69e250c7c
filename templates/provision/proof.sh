# shellcheck shell=bash
# What may shut us out undoes itself, unless a second connection proves the way in: after a minute, or when the server
# starts anew before that.

UNDO_AFTER=60 # seconds
UNPROVEN=$STATE/unproven # a file for each: the commands that undo it; emptied when they have run, removed when proven

UNDO_UNIT=/etc/systemd/system/fab-releases-undo.service # there only while something is not proven

until_proven() { # NAME COMMANDS   which undo it, also when nobody is connected any more; said before it is changed
  undone "$1"
  mkdir -p "$UNPROVEN"
  printf '%s\n' "$2" | write_synced "$UNPROVEN/$1"
  undo_at_boot
  systemd-run --quiet --collect --unit="fab-releases-undo-$1" --on-active="$UNDO_AFTER" --timer-property=AccuracySec=1s \
    bash -c "bash '$UNPROVEN/$1'; : >'$UNPROVEN/$1'"
}

undo_at_boot() { # a timer forgets with a reboot; before anything is shut, and before sshd
  cat >"$UNDO_UNIT" <<EOF
# Written by fab-releases, and removed when a second connection came in.
[Unit]
Description=Undo what was not proven to let us in
DefaultDependencies=no
RequiresMountsFor=$STATE
ConditionDirectoryNotEmpty=$UNPROVEN
After=local-fs.target
Before=ufw.service network-pre.target ssh.service ssh.socket
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'for file in $UNPROVEN/*; do bash "\$\$file"; : >"\$\$file"; done'
[Install]
WantedBy=sysinit.target
EOF
  systemctl enable --quiet "${UNDO_UNIT##*/}"
  sync "$UNPROVEN" "$UNDO_UNIT" "${UNDO_UNIT%/*}" "${UNDO_UNIT%/*}/sysinit.target.wants" # before what it undoes reaches the disk
}

proven() { # NAME
  stop_undo "$1"
  rm -f "$UNPROVEN/$1" "$STATE/before-$1"
  if rmdir "$UNPROVEN" 2>/dev/null; then
    systemctl disable --quiet "${UNDO_UNIT##*/}"
    rm -f "$UNDO_UNIT"
  fi
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
