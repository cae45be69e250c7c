# shellcheck shell=bash
# UFW: everything shut but what is named. What we add carries a comment, and only that is ever taken away.

rules() { # as ufw lists them, whatever anybody remarks on them
  ufw show added 2>/dev/null | sed -n "s/ comment '[^']*'\$//; s/^ufw //p" || true
}

our_rules() { ufw show added 2>/dev/null | sed -n "s/^ufw \(.*\) comment '$(our_remark)'\$/\1/p" || true; }

our_remark() { printf 'fab-releases %s' "$APPLICATION"; }

look_firewall() { # NAME RULE...   RULE: what `ufw` is told, as "allow 443/tcp"
  local name=$1 rule added
  shift
  added=$(rules)
  {
    if LC_ALL=C ufw status 2>/dev/null | grep -q '^Status: active' && [ ! -e "$UNPROVEN/firewall" ]; then echo "active"; fi
    if grep -qs '^DEFAULT_INPUT_POLICY="DROP"' /etc/default/ufw; then echo "deny what is not allowed"; fi
    for rule in "$@"; do
      if grep -qxF -- "$rule" <<<"$added"; then echo "$rule"; fi
    done
  } | found "$name"
}

make_firewall() { # SSH_PORT RULE...
  local port=$1
  shift
  if [ -n "$port" ] && ! printf '%s\n' "$@" | grep -qE "^(allow|limit) $port/tcp$"; then
    die "the firewall would shut port $port, by which this connection came" "nothing was switched on; correct port in releases.toml"
  fi
  firewall_until_proven
  make_rules "$@"
  ufw default deny incoming >/dev/null
  ufw default allow outgoing >/dev/null
  ufw --force enable >/dev/null
}

firewall_until_proven() { # the files are ufw's own, and all it has
  local before=$STATE/before-firewall
  mkdir -p "$STATE"
  (umask 077 && tar -C / -cf "$before" etc/default/ufw etc/ufw/ufw.conf etc/ufw/user.rules etc/ufw/user6.rules)
  sync "$before"
  until_proven firewall "ufw --force disable; tar -C / -xpf '$before'; if grep -q '^ENABLED=yes' /etc/ufw/ufw.conf; then ufw --force enable; fi"
}

look_rules() { # NAME RULE...
  local name=$1 rule added
  shift
  added=$(rules)
  for rule in "$@"; do
    if grep -qxF -- "$rule" <<<"$added"; then echo "$rule"; fi
  done | found "$name"
}

make_rules() { # RULE...   they only let in: nothing they do can shut anybody out
  local rule added
  added=$(rules)
  for rule in "$@"; do
    if grep -qxF -- "$rule" <<<"$added"; then continue; fi # whoever made it keeps it
    # shellcheck disable=SC2086  # a rule is several words of ufw's
    ufw $rule comment "$(our_remark)" >/dev/null
  done
}

look_old_rules() { # NAME PORTS RULE...
  old_rules "${@:2}" | found "$1"
}

old_rules() { # PORTS RULE...   ours, and none of these; about PORTS ("5432|6432") nothing is said
  { our_rules | grep -vxF -f <(printf '%s\n' "${@:2}") | grep -vE "^allow from .* port ($1) proto tcp\$"; } || true
}

drop_old_rules() { # PORTS RULE...
  local rule
  while IFS= read -r rule; do
    # shellcheck disable=SC2086
    ufw delete $rule >/dev/null
  done < <(old_rules "$@")
}
