# shellcheck shell=bash
# The balancer: the list of hosts that its nginx passes users on to. Who is drained stays so.

look_upstream() { # NAME PATH
  { sed -nE 's/^(server [^ ]+) .*;(  # .*)$/\1\2/p' "$2" 2>/dev/null || true; } | found "$1"
}

make_upstream() { # PATH PROGRAM SUDOERS
  visudo -cqf "$3" || die "$3 is refused by visudo" "the names of hosts in releases.toml must change"
  keep "$1"
  "$2" || die "the list of hosts could not be written" "the lines above say why"
}
