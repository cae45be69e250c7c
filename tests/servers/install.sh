#!/usr/bin/env bash
# Installs what a machine needs to boot test servers; does nothing where they cannot run or nothing is missing.
# In CI also the programs of tests that need no server, so that none of them is skipped; their services are not started.
set -euo pipefail

packages=(mmdebstrap debian-archive-keyring systemd-container iproute2 iptables openssh-client restic strace)

skip() {
    echo "test servers: nothing installed: $1" >&2
    exit 0
}

[ "$(id -u)" -eq 0 ] || skip "needs root"
command -v apt-get >/dev/null || skip "not Debian (no apt-get)"

if [ "${CI-}" = true ]; then
    packages+=(postgresql redis-server)
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
export DEBIAN_FRONTEND=noninteractive
if ! compgen -G '/var/lib/apt/lists/*Release' >/dev/null; then
    apt-get -qq update  # the image comes from this machine's own mirrors, as its lists name them
fi
[ "${#missing[@]}" -gt 0 ] || exit 0

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" # as invoke-rc.d asks: no, do not start it
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
echo "test servers: installing ${missing[*]}" >&2
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
