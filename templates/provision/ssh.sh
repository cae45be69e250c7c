# shellcheck shell=bash
# sshd: what one file of ours says, which comes before all others.

look_sshd() { # NAME SETTING...   those in use: a file that is read before ours, or a missing Include, would show
  local name=$1
  shift
  { sshd -T 2>/dev/null | sed 's/without-password$/prohibit-password/' | grep -ixF "$(printf '%s\n' "$@")" || true; } | sort | found "$name"
}

sshd_until_proven() { # PATH   of our file, as it is now
  local back="rm -f '$1'"
  [ ! -f "$1" ] || back="base64 -d <<<'$(base64 -w 0 "$1")' >'$1'"
  until_proven ssh "$back; systemctl is-active --quiet ssh.service && systemctl reload ssh.service"
}

reload_sshd() { # connections stay; answers when the new one listens, so that a second connection proves something
  local before tries
  if ! systemctl is-active --quiet ssh.service; then return; fi # by ssh.socket: every connection reads it anew
  before=$(sshd_listens)
  systemctl reload ssh.service
  for ((tries = 0; tries < 100; tries++)); do
    case $(sshd_listens) in '' | "$before") sleep 0.1 ;; *) return ;; esac
  done
  echo "sshd does not listen again"
  return 1
}

sshd_listens() { ss -ltnpeH | sed -n 's/.*"sshd".* ino:\([0-9]*\) .*/\1/p' | sort; }
