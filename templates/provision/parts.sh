# shellcheck shell=bash
# Parts of a server: things that go live together, are checked together, and are put back together when the check fails.

STATE=/var/lib/fab-releases

found() { # NAME < STATE   what there is now, in words that may be shown
  mark found "$1" "$(base64 -w 0)"
}

look_nothing() { found "$1" </dev/null; } # NAME   whatever there is has to be made again

identify() { # what kind of machine this is, before anything is said about it
  local server_port
  fact os "$(sed -n 's/^ID=//p' /etc/os-release | tr -d '"') $(sed -n 's/^VERSION_ID=//p' /etc/os-release | tr -d '"')"
  fact init "$(cat /proc/1/comm)"
  # Where sshd really listens, which a forwarded port would hide from the operator's side.
  read -r _ _ _ server_port <<<"${SSH_CONNECTION:-}" || true
  fact ssh_port "${server_port:-}"
  fact as_root "$([ "$EUID" = 0 ] && echo yes)"
  fact python "$([ -x /usr/bin/python3 ] && /usr/bin/python3 -V)"
}

part() { # NAME   what follows goes live together; whatever ends it early puts everything back
  PART=$1
  mkdir -p "$STATE/begun"
  KEPT=$(mktemp -d "$STATE/kept.XXXXXX")
  export FAB_RELEASES_KEPT=$KEPT # for tasks/server/make/kept.py
  USE=(:)
  : >"$STATE/begun/$PART"
  trap put_back_part EXIT
}

use_with() { # FUNCTION WORD...   how what was made is put to use
  USE=("$@")
  "$@" || die "$PART: $* failed" "it is as it was before; the lines above say why"
}

checked_with() { # WORD...   the judge of what was made, before it is put to use
  local said
  said=$("$@" 2>&1) || {
    printf '%s\n' "$said"
    die "$PART: refused by ${1##*/}: $(grep -v '^$' <<<"$said" | head -n 1)" "it is as it was before; the template or the values in releases.toml must change"
  }
}

part_done() {
  rm -f "$STATE/begun/$PART"
  rm -rf "$KEPT"
  trap - EXIT
}

put_back_part() {
  trap - EXIT
  set +e
  server make.kept.put_back '{"arguments":{}}'
  "${USE[@]}" >/dev/null 2>&1
  undone "$PART" >/dev/null 2>&1
  rm -f "$STATE/begun/$PART"
  rm -rf "$KEPT"
}

# Only where nobody but root writes; elsewhere tasks/server/make/kept.py, in the same folder.
keep() { # PATH   as it is now, until the part is done
  if [ -e "$KEPT$1" ] || [ -L "$KEPT$1" ] || [ -e "$KEPT$1/.absent" ]; then return; fi
  mkdir -p "$KEPT$(dirname "$1")"
  if [ -e "$1" ] || [ -L "$1" ]; then cp -a "$1" "$KEPT$1"; else mkdir -p "$KEPT$1" && : >"$KEPT$1/.absent"; fi
}

look_begun() { # NAME PART   a run that died between making it and putting it to use, or proving the way in
  if [ -e "$STATE/begun/$2" ] || [ -e "$UNPROVEN/$2" ]; then echo "made, not yet in use"; else echo "in use"; fi | found "$1"
}
