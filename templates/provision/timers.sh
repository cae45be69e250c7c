# shellcheck shell=bash
# Timers that are not wanted any more.

make_no_timer() { # PATH
  systemctl disable --quiet --now "${1##*/}" 2>/dev/null || true
  make_absent "$1"
  systemctl daemon-reload
}
