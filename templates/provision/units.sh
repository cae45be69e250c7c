# shellcheck shell=bash
# What systemd thinks of a unit: from 0, shut, to 10, wide open.

tell_exposure() { # UNIT...
  local unit
  for unit in "$@"; do # of a template: any instance
    mark exposure "$unit" "$(systemd-analyze security --no-pager "${unit/@./@any.}" 2>/dev/null | sed -n 's/^→.* \([0-9.]*\) [A-Z]* .*/\1/p')"
  done
}
