# shellcheck shell=bash
# Certificates: the one an authority gave, the one somebody put there, and the one that users are shown.

look_first_site() { # NAME PATH
  if grep -qsF acme-challenge "$2"; then echo "answers an authority"; fi | found "$1"
}

look_obtained() { # NAME CERTIFICATE
  obtained "$2" | found "$1"
}

obtained() { # CERTIFICATE   as certbot names it
  local chain=/etc/letsencrypt/live/$1/fullchain.pem how=/etc/letsencrypt/renewal/$1.conf
  [ -f "$chain" ] || return 0
  openssl x509 -in "$chain" -noout -ext subjectAltName | grep -oE 'DNS:[^, ]+' | sed 's/^DNS:/for /' | sort
  sed -n 's/^server = /from /p' "$how"
  sed -n 's/^authenticator = /renewed by /p' "$how"
  lasts "$chain"
}

lasts() { # PATH   certbot renews when a third of the usual 90 days is left; later it is overdue
  local from to
  from=$(date -d "$(openssl x509 -in "$1" -noout -startdate | cut -d = -f 2)" +%s)
  to=$(date -d "$(openssl x509 -in "$1" -noout -enddate | cut -d = -f 2)" +%s)
  if ((to - EPOCHSECONDS > (to - from) / 5)); then echo "not overdue"; else echo "overdue: ends $(date -u -d "@$to" '+%F %R') UTC"; fi
}

make_obtained() { # CERTIFICATE WANT EMAIL AUTHORITY WEBROOT NAME...
  local certificate=$1 want=$2 authority=$4 webroot=$5 said words=(--register-unsafely-without-email) name
  [ -z "$3" ] || words=(--no-eff-email --email "$3")
  shift 5
  [ "$(obtained "$certificate")" != "$want" ] || return 0
  for name in "$@"; do words+=(-d "$name"); done
  said=$(certbot certonly --non-interactive --agree-tos --server "$authority" --cert-name "$certificate" --webroot --webroot-path "$webroot" \
    --force-renewal --renew-with-new-domains "${words[@]}" 2>&1 </dev/null) || {
    printf '%s\n' "$said"
    die "no certificate from $authority: $(refusal <<<"$said")" "users are served as before; do $* lead to this server, and is its port 80 reached from outside? more in /var/log/letsencrypt"
  }
}

refusal() { # < OUTPUT   certbot's own advice comes last, the authority's reason before it
  local said
  said=$(grep -vE '^(Saving debug log|Some challenges have failed|Ask for help|$)')
  { sed -nE 's/^ *Detail: //p' <<<"$said"; tail -n 1 <<<"$said"; } | head -n 1
}

look_given() { # NAME FULLCHAIN KEY DOMAIN...
  given "${@:2}" | found "$1"
}

given() { # FULLCHAIN KEY DOMAIN...
  local chain=$1 key=$2 name ours
  shift 2
  ours=$(openssl x509 -in "$chain" -noout -pubkey 2>/dev/null) || return 0
  for name in "$@"; do
    if openssl x509 -in "$chain" -noout -checkhost "$name" | grep -q 'does match'; then echo "is for $name"; fi
  done
  if [ "$ours" = "$(openssl pkey -in "$key" -pubout -passin pass: 2>/dev/null)" ]; then echo "belongs to $key"; fi
  if openssl x509 -in "$chain" -noout -checkend 0 >/dev/null; then echo "has not ended"; fi
}

need_given() { # WANT FULLCHAIN KEY DOMAIN...   nobody but you can make it
  local missing
  missing=$(grep -vxF -f <(given "${@:2}") <<<"$1") || return 0
  die "the certificate $2 is not one that $(head -n 1 <<<"$missing")" "users are served as before; put the right files there, then fab provision"
}

look_served() { # NAME FULLCHAIN DOMAIN
  if served "$2" "$3"; then echo "served"; else echo "another, or none"; fi | found "$1"
}

served() { # FULLCHAIN DOMAIN
  local ours theirs
  ours=$(openssl x509 -in "$1" -noout -fingerprint -sha256 2>/dev/null) || return 1
  theirs=$(timeout 5 openssl s_client -connect 127.0.0.1:443 -servername "$2" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256 2>/dev/null) || return 1
  [ "$ours" = "$theirs" ]
}

serve_https() { # FULLCHAIN DOMAIN   nginx takes its new configuration up a moment after it said so
  local tries
  reload nginx.service
  for ((tries = 0; tries < 50; tries++)); do
    if served "$1" "$2"; then return; fi
    sleep 0.2
  done
  echo "port 443 of this server does not show the certificate $1"
  return 1
}
