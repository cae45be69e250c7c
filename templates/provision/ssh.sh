# shellcheck shell=bash
# sshd: what one file of ours says, which comes before all others.

look_sshd() { # NAME SETTING...   those in use: a file that is read before ours, or a missing Include, would show
  local name=$1 setting all now
  shift
  all=$(sshd -T 2>/dev/null | sed 's/without-password$/prohibit-password/') || true
  for setting in "${@,,}"; do
    now=$(grep -m 1 "^${setting%% *} " <<<"${all,,}") || continue
    if [ "$now" = "$setting" ]; then echo "$now"; else echo "$now  # $(says_it "${setting%% *}")"; fi
  done | sort | found "$name"
}

says_it() { # SETTING   the file that sshd reads first of those that have it
  grep -liE "^\s*$1\s" /etc/ssh/sshd_config.d/*.conf /etc/ssh/sshd_config 2>/dev/null | head -n 1
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
