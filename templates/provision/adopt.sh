# shellcheck shell=bash
# A flat checkout becomes a release. Nothing of it is taken away: code and packages are copied, shared folders are moved
# with a link left in their place, old units are stopped and disabled, old nginx sites are kept beside.

ASIDE=before-adoption
LAYOUT=(current releases staging shared environments backups repo.git .releases)

# As a deploy does it, by the account that deploys. What it begins it ends before a stop is obeyed, as in `critical`.
# That account can read what its processes know, and keep what they have open: they get a nonce and a pipe of their own, so
# that nothing it says later passes for what root's session tells; and no descriptor of root's lock.
as_account() { # USER FUNCTION WORD...
  local user=$1 home status stopped='' outer=$NONCE NONCE
  NONCE=$(od -An -N 8 -t x1 /dev/urandom | tr -d ' \n')
  shift
  home=$(home_of "$user")
  trap 'stopped=143' TERM INT HUP
  set +e
  {
    declare -p NONCE DEPLOY_TO RUN APPLICATION MANAGER PORT SERVICES PRIVATE RELEASES STAGING SHARED ENVIRONMENTS ROOT_LOCK
    declare -p SITE SERVER_FOLDER SERVER_PYTHON SERVER_HASH SERVER_CODE 2>/dev/null || true
    declare -f
    # shellcheck disable=SC2016  # for the bash that reads it
    printf 'STEP=\ncd -- "$HOME" 2>/dev/null || cd /\n"$@" </dev/null\nexit\n'
  } | HOME=$home USER=$user LOGNAME=$user setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups bash -euo pipefail -s -- "$@" 2>&1 3>&1 9>&- |
    passed_on "$NONCE" "$outer"
  status=${PIPESTATUS[1]}
  set -e
  trap - TERM INT HUP
  [ -z "$stopped" ] || exit "$stopped"
  return "$status"
}

passed_on() { # NONCE OUR_NONCE < WHAT_IT_SAYS
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      $'\036'"$1"$'\t'*) printf '\036%s\t%s\n' "$2" "${line#*$'\t'}" >&3 ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
}

# --- looking ---

look_adopted() { # how far an earlier run came; by the account that deploys
  local live
  live=$(current_id)
  fact adopted "$(cat "$PRIVATE/adopted" 2>/dev/null)"
  fact live "$live"
  fact state "$(state_of "${live:-none}")"
  fact ref "$(sed -n 's/.*"ref": "\([^"]*\)".*/\1/p' "$RELEASES/${live:-none}/release.json" 2>/dev/null)"
  fact newest "$(release_ids | sort | tail -n 1)"
  if [ -s "$PRIVATE/adopted" ]; then return; fi
  if [ -e "$PRIVATE/freeze" ] && ! grep -qF "fab provision --adopt" "$PRIVATE/freeze"; then
    mark problem "$DEPLOY_TO is frozen: $(cat "$PRIVATE/freeze")" "fab unfreeze lifts it"
  fi
}

look_adoption() { # USER CHECKOUT PLACE UNIT...   PLACE is what becomes the release: the checkout, or its sub_directory
  local checkout=$2 place=$3 venv name
  if [ -d "$PRIVATE" ] && id "$1" >/dev/null 2>&1; then as_account "$1" look_adopted; fi
  if [ -s "$PRIVATE/adopted" ]; then return; fi
  if [ -d "$DEPLOY_TO/current" ] && [ ! -L "$DEPLOY_TO/current" ]; then mark problem "$DEPLOY_TO/current is a folder" "name another deploy_to"; fi
  if ! git_of "$checkout" rev-parse --verify -q HEAD >/dev/null 2>&1 || [ -n "$(git_of "$checkout" rev-parse --show-prefix)" ]; then
    mark problem "$checkout is not a git checkout" "[provision] adopt names the folder that holds .git"
    return
  fi
  [ -d "$place" ] || mark problem "$place does not exist" "see sub_directory in releases.toml"
  fact sha "$(git_of "$checkout" rev-parse HEAD)"
  fact changed "$(git_of "$checkout" status --porcelain --untracked-files=no | wc -l)"
  fact untracked "$(git_of "$checkout" status --porcelain --ignored | sed -n 's/^[?!][?!] //p' | head -n 30 | paste -sd ' ')"
  if [ "$checkout" = "$DEPLOY_TO" ] && [ ! -d "$PRIVATE" ]; then
    for name in "${LAYOUT[@]}"; do
      [ ! -e "$DEPLOY_TO/$name" ] || mark problem "$DEPLOY_TO/$name is there, and a release layout needs that name" "name another deploy_to"
    done
  fi
  venv=$(venv_of "$checkout" "${@:4}")
  if [ -z "$venv" ]; then
    mark problem "no virtual environment was found in $checkout or in the units" "python3 -m venv"
    return
  fi
  fact venv "$venv"
  fact python "$(as_owner "$venv" sed -nE 's/^version(_info)? *= *([0-9]+\.[0-9]+\.[0-9]+).*/\2/p' "$venv/pyvenv.cfg" | head -n 1)"
  case $(readlink -f "$venv/bin/python") in
    /home/* | /root/*) mark problem "the interpreter of $venv is in a home folder, where services may not read" "make it again from a Python in /usr, as python3 -m venv does" ;;
    '') mark problem "the interpreter of $venv does not exist" "make it again: python3 -m venv" ;;
  esac
}

git_of() { # CHECKOUT WORD...   as the owner: what its configuration runs is not run as root
  as_owner "$1/.git" env HOME=/nonexistent git -c safe.directory='*' --no-optional-locks -C "$1" "${@:2}"
}

as_owner() { # PATH WORD...   root reads nothing where somebody else could have put a link, a FIFO or a device
  local owner
  owner=$(stat -c %u "$1" 2>/dev/null) || return 1
  setpriv --reuid="$owner" --regid="$(stat -c %g "$1")" --clear-groups "${@:2}"
}

venv_of() { # CHECKOUT UNIT...   what its services run from, else the one inside it
  local path
  while IFS= read -r path; do
    path=${path%/bin/*}
    if [ -f "$path/pyvenv.cfg" ]; then
      printf '%s' "$path"
      return
    fi
  done < <(systemctl show -p ExecStart --value "${@:2}" 2>/dev/null | grep -oE "/[^ ;'\"]*/bin/" || true; find "$1" -mindepth 2 -maxdepth 3 -name pyvenv.cfg -printf '%h/bin/\n' 2>/dev/null)
}

is_ours() { # UNIT
  systemctl cat "$1" 2>/dev/null | grep -qF "$DEPLOY_TO/current/.release/launch.py"
}

look_old_unit() { # UNIT CHECKOUT DEPLOYER   -> fact "unit NAME": what it runs as and what it is
  local runs user kind=web path mended=
  if is_ours "$1"; then
    fact "unit $1" "root ours"
    return
  fi
  if [ -z "$(systemctl show -p FragmentPath --value "$1")" ]; then
    mark problem "there is no unit $1" "systemctl list-units says what there is; then [provision] adopt_services"
    return
  fi
  runs=$(systemctl show -p ExecStart --value "$1")
  user=$(systemctl show -p User --value "$1")
  case $runs in *' beat '* | *' -B '* | *' --beat '*) kind=beat ;; *celery* | *worker*) kind=worker ;; esac
  fact "unit $1" "${user:-root} $kind"
  if [ "$2" = "$DEPLOY_TO" ] && [ "${user:-root}" != root ] && [ "$user" != "$3" ]; then
    mark problem "$1 runs as $user and could write no longer in $2, which will belong to $3" "name another deploy_to, or let it run as $3"
  fi
  if [ "$(systemctl show -p ProtectSystem --value "$1")" = strict ]; then
    for path in $(systemctl show -p ReadWritePaths --value "$1"); do
      case $SHARED/ in "${path#-}"/*) mended=yes ;; esac
    done
    [ -n "$mended" ] || mark problem "$1 may not write in $SHARED, where its uploads will be" "systemctl edit $1: ReadWritePaths=$SHARED, and restart it"
  fi
}

look_old_folder() { # PLACE PATH   of shared_dirs: moved in one moment, or there already
  local old=$1/$2 new=$SHARED/$2 above
  if [ ! -e "$old" ] || [ "$old" -ef "$new" ]; then return; fi
  fact "folder $2" "$(du -sk "$old" | cut -f 1)"
  above=$(existing_parent "$(dirname "$new")")
  if [ -L "$old" ] || mountpoint -q "$old" || [ "$(stat -c %d "$old")" != "$(stat -c %d "$above")" ]; then
    mark problem "$old is a link, or on another file system than $DEPLOY_TO: it cannot be moved in one moment" \
      "mount the same folder at $new (mount --bind, and in /etc/fstab), then run this again"
  elif [ -d "$new" ] && [ -n "$(ls -A "$new")" ]; then
    mark problem "$old and $new both hold files" "move those of $new away"
  fi
}

look_old_file() { # PLACE PATH CHECKOUT   of shared_files, and the environment file
  local old=$1/$2 new=$SHARED/$2 names
  if [ ! -f "$old" ] && [ ! -f "$new" ]; then
    mark problem "$old does not exist" "if the application has it elsewhere, put a copy at $new"
  elif [ -f "$old" ] && [ -f "$new" ] && [ "$(as_owner "$1" sha256sum -- "$old" | cut -c -64)" != "$(as_owner "$SHARED" sha256sum -- "$new" | cut -c -64)" ]; then
    mark problem "$old and $new differ" "remove or correct $new"
  fi
  names=$(as_owner "$1" grep -hF "$3/" "$old" 2>/dev/null | sed -nE 's/^(export )?([A-Za-z_][A-Za-z0-9_]*)=.*/\2/p' | paste -sd ' ') || true
  [ -z "$names" ] || fact "paths in $2" "$names"
}

look_old_writes() { # PLACE UNITS FOLDER...   what is open for writing lives on in no release
  local place=$1 units=$2 unit process file path folder seen=' '
  shift 2
  for unit in $units; do
    for process in $(grep -lE "/$unit(/|\$)" /proc/[0-9]*/cgroup 2>/dev/null || true); do
      for file in "${process%/cgroup}"/fd/*; do
        path=$(readlink "$file") || continue
        case $path in "$SHARED"/* | *.pyc | *.pid | *.sock | *celerybeat-schedule* | *' (deleted)') continue ;; "$place"/*) ;; *) continue ;; esac
        path=${path#"$place"/}
        for folder in "$@"; do case $path in "$folder"/*) continue 2 ;; esac; done
        grep -qE '^flags:.*[12]$' "${file/\/fd\///fdinfo/}" 2>/dev/null || continue
        case $seen in *" $path "*) continue ;; esac
        seen+="$path "
        mark problem "$unit is writing $place/$path, and no folder of shared_dirs holds it" "name its folder in shared_dirs: a release is read-only to its services"
      done
    done
  done
}

look_old_sites() { # CHECKOUT DOMAIN FILES   FILES: the new site has a certificate
  local found
  found=$(sites_of "$1" "$2")
  fact sites "$(paste -sd ' ' <<<"$found")"
  # shellcheck disable=SC2086  # names of sites have no spaces
  if [ -n "$found" ] && [ -z "$3" ] && grep -qE '^[[:space:]]*ssl_certificate[[:space:]]' $found; then
    mark problem "the nginx site that is there speaks https, and the new one would not" \
      "[tls] certificate = \"files\", with fullchain and key as in $(head -n 1 <<<"$found")"
  fi
}

sites_of() { # CHECKOUT DOMAIN   enabled sites that serve it or its domain, without our own
  local path
  for path in /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*.conf; do
    if [ ! -f "$path" ] || grep -qF "unix:$DEPLOY_TO/current/web.sock" "$path"; then continue; fi
    if grep -qF "$1" "$path" || { [ -n "$2" ] && grep -qE "server_name[^;#]*[[:space:]]${2//./\\.}[[:space:];]" "$path"; }; then printf '%s\n' "$path"; fi
  done
}

look_others() { # CHECKOUT UNITS   what else runs from there, or says so
  local path unit others=
  while IFS= read -r path; do
    unit=${path##*/}
    case " $2 " in *" $unit "*) continue ;; esac
    case $path in
      *.service)
        if is_ours "$unit" || grep -qF "$DEPLOY_TO/releases/" "$path"; then continue; fi
        if systemctl is-active --quiet "$unit"; then
          mark problem "$unit runs from $1 as well: it would run old code for ever" "name it in [provision] adopt_services, or stop it"
          continue
        fi
        ;;
    esac
    others+=" $path"
  done < <(grep -rlsF "$1/" /etc/systemd/system /etc/cron* /var/spool/cron /etc/supervisor /etc/logrotate.d --include='*' 2>/dev/null | grep -vE '\.(wants|requires)/|before-adoption' || true)
  [ -z "$others" ] || fact others "${others# }"
}

look_room() { # PLACE VENV_MINIMUM_MB FOLDER...   a copy of code and packages
  local place=$1 minimum=$2 words=() folder venv need free
  shift 2
  for folder in "$@" .git; do words+=("--exclude=$place/$folder"); done
  if [ "$place" = "$DEPLOY_TO" ]; then for folder in "${LAYOUT[@]}"; do words+=("--exclude=$place/$folder"); done; fi
  need=$(du -sk "${words[@]}" "$place" 2>/dev/null | cut -f 1)
  free=$(df -Pk "$(existing_parent "$DEPLOY_TO")" | awk 'NR == 2 {print $4}')
  fact copied "$need"
  if ((free < need + minimum * 1024)); then
    mark problem "only $((free / 1024)) MB are free for $DEPLOY_TO: a copy takes $((need / 1024)) MB, and $minimum MB must be left" "free some, or lower minimum_free"
  fi
}

# --- copying ---

open_code() { # ID SERVED   what was copied: nobody but its owner writes it, and nginx goes this way to the static files
  local dir=$STAGING/$1 served=$2 name place
  mkdir -p "$dir/.release"
  chmod -R u+rwX,g+rX,g-w,o-w "$dir"
  chmod 755 "$dir"
  name=$dir
  while IFS= read -r -d / place; do
    name+=/$place
    [ ! -d "$name" ] || chmod o+x "$name"
  done <<<"$served/"
  [ ! -d "$dir/$served" ] || chmod -R o+rX "$dir/$served"
}

adopt_environment() { # ID VENV PLACE
  local id=$1 venv=$2 place=$3 dir=$STAGING/$1/.venv name=adopted-$1 file
  for file in "$dir"/bin/*; do
    if [ -f "$file" ] && [ ! -L "$file" ] && head -c 2 "$file" | grep -q '#!' && head -n 2 "$file" | grep -qaF "$venv/bin/"; then relocate_script "$file"; fi
  done
  # What was installed to be edited in place, and the folder of the environment itself.
  find "$dir" -maxdepth 5 \( -name '*.pth' -o -name '__editable__*.py' -o -name '*.egg-link' -o -name 'activate*' -o -name pyvenv.cfg \) -type f \
    -exec sed -i "s|$venv\\b|@ENVIRONMENT@|g; s|$place\\b|$RELEASES/$id|g; s|@ENVIRONMENT@|$ENVIRONMENTS/$name|g" {} +
  chmod -R u+w,a+rX,go-w "$dir"
  finish_environment "$id" "$name"
}

finish_environment() { # ID NAME   no .release/python: packages that grew by hand are nobody's beginning
  local dir=$STAGING/$1
  "$dir/.venv/bin/python" -I -c 'import importlib.metadata as found
for line in sorted({"%s==%s" % (one.metadata["Name"], one.version) for one in found.distributions()}): print(line)' >"$dir/.venv/freeze.txt"
  publish_environment "$1" "$2"
  ln -s "../../environments/$2" "$dir/.venv"
  cp "$ENVIRONMENTS/$2/freeze.txt" "$dir/.release/"
}

relocate_script() { # PATH   as uv makes them: it finds the Python beside itself
  local rest=2
  if [ "$(head -n 1 "$1")" = '#!/bin/sh' ]; then rest=4; fi
  # shellcheck disable=SC2016  # for the shell that will run it
  {
    printf '#!/bin/sh\n'
    printf '%s\n' "'''exec' \"\$(dirname -- \"\$(realpath -- \"\$0\")\")\"/'python' \"\$0\" \"\$@\"" "' '''"
    tail -n "+$rest" "$1"
  } >"$1.new"
  chmod --reference="$1" "$1.new"
  mv -T "$1.new" "$1"
}

adopt_static() { # ID STATIC_ROOT   what browsers have pages of now stays served
  local dir=$STAGING/$1
  [ -d "$dir/$2" ] || project "$dir" collectstatic '{}' || refuse "static files could not be collected"
  pool_static "$1" "$2"
}

# --- handing over ---

withdraw_undecided() { # BY   died between the switch and its record
  local id
  id=$(current_id)
  if [ -n "$id" ] && [ "$(state_of "$id")" != live ]; then put_back "$id" '' "$1" bad; fi
}

old_sites_aside() { # CHECKOUT DOMAIN   inside the part nginx, which puts them back when it fails
  local path kept
  [ -e "/etc/nginx/nginx.conf.$ASIDE" ] || cp -a /etc/nginx/nginx.conf "/etc/nginx/nginx.conf.$ASIDE"
  while IFS= read -r path; do
    [ -n "$path" ] || continue
    kept=/etc/nginx/sites-available/${path##*/}.$ASIDE
    [ -e "$kept" ] || cp -a "$(readlink -f "$path")" "$kept"
    keep "$path"
    rm "$path"
    fact "site $path" "kept as $kept"
  done < <(
    sites_of "$1" "$2"
    if [ -f /etc/nginx/sites-enabled/default ] && [ ! -L /etc/nginx/sites-enabled/default ]; then echo /etc/nginx/sites-enabled/default; fi
  )
}

front_door() { # ID REQUEST
  probe "$1" "$2" || die "release $1 is not well through the front door${PROBED:+: $PROBED}" "the sites that were there before are back; look at /var/log/nginx"
}

retire_unit() { # UNIT
  if is_ours "$1"; then return; fi
  systemctl stop "$1"
  systemctl disable --quiet "$1" 2>/dev/null || true
}

unit_aside() { # UNIT   whose name one of ours takes: its definition, and what would be added to ours
  local path=/etc/systemd/system/$1
  if is_ours "$1"; then return; fi
  if [ -f "$path" ] && [ ! -e "$path.$ASIDE" ]; then cp -a "$path" "$path.$ASIDE"; fi
  [ ! -d "$path.d" ] || mv -T "$path.d" "$path.d.$ASIDE"
}

await_old_requests() { # those nginx took before its reload, at the most a minute
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    pgrep -f '^nginx: worker process is shutting down' >/dev/null || return 0
    sleep 0.1
  done
}

adoption_done() { # ID CHECKOUT
  unfreeze
  printf '%s %s\n' "$1" "$2" | write_synced "$PRIVATE/adopted"
}
