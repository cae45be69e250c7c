# shellcheck shell=bash
# UFW: everything shut but what is named.

look_firewall() { # NAME RULE...   RULE: what `ufw` is told, as "allow 443/tcp"
  local name=$1 rule added
  shift
  added=$(ufw show added 2>/dev/null) || true
  {
    if LC_ALL=C ufw status 2>/dev/null | grep -q '^Status: active' && [ ! -e "$UNPROVEN/firewall" ]; then echo "active"; fi
    if grep -qs '^DEFAULT_INPUT_POLICY="DROP"' /etc/default/ufw; then echo "deny what is not allowed"; fi
    for rule in "$@"; do
      if grep -qxF -- "ufw $rule" <<<"$added"; then echo "$rule"; fi
    done
  } | found "$name"
}

make_firewall() { # SSH_PORT RULE...
  local port=$1
  shift
  if [ -n "$port" ] && ! printf '%s\n' "$@" | grep -qE "^(allow|limit) $port/tcp$"; then
    die "the firewall would shut port $port, by which this connection came" "nothing was switched on; correct port in releases.toml"
  fi
  until_proven firewall "ufw --force disable"
  make_rules "$@"
  ufw default deny incoming >/dev/null
  ufw default allow outgoing >/dev/null
  ufw --force enable >/dev/null
}

look_rules() { # NAME RULE...
  local name=$1 rule added
  shift
  added=$(ufw show added 2>/dev/null) || true
  for rule in "$@"; do
    if grep -qxF -- "ufw $rule" <<<"$added"; then echo "$rule"; fi
  done | found "$name"
}

make_rules() { # RULE...   they only let in: nothing they do can shut anybody out
  local rule
  for rule in "$@"; do
    # shellcheck disable=SC2086  # a rule is several words of ufw's
    ufw $rule >/dev/null
  done
}
