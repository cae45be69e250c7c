# shellcheck shell=bash
# Timers that are not wanted any more.

stop_timer() { # PATH   before its file goes
  systemctl disable --quiet --now "${1##*/}" 2>/dev/null || true
}
