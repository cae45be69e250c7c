# shellcheck shell=bash
# The commit: a bare mirror on the server, one commit written out of it.

git_safely() { # SECONDS WORD...   no prompts, no exotic transports, no background gc that would keep the lock
  local limit=$1
  shift
  GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=ssh:https${ALSO_BY:+:$ALSO_BY} GIT_HTTP_LOW_SPEED_LIMIT=500 GIT_HTTP_LOW_SPEED_TIME=20 \
    GIT_SSH_COMMAND="${GIT_SSH_COMMAND:-ssh -oBatchMode=yes -oConnectTimeout=10 -oServerAliveInterval=5 -oServerAliveCountMax=3}" \
    timeout -k 5 "$limit" git -c gc.auto=0 -c maintenance.auto=false -c advice.detachedHead=false "$@"
}

# What comes by http or git anybody on the way can change, and file reads what others have on this server: a way is gone only
# where the address in releases.toml goes it, not because a submodule or a redirection asks for it.
ways_of() { # URL
  ALSO_BY=
  case $1 in
    http://*) ALSO_BY=http ;;
    git://*) ALSO_BY=git ;;
    file://*) ALSO_BY='file' ;;
    *) [[ $1 =~ ^[^/]+: ]] || ALSO_BY='file' ;;
  esac
}

refuse_way_of() { # URL
  local asked=$ALSO_BY wanted
  ways_of "$1"
  wanted=$ALSO_BY ALSO_BY=$asked
  [ -z "$wanted" ] || [ "$wanted" = "$asked" ] ||
    die "$1 is fetched by $wanted, which is not safe" "say its https or ssh address in .gitmodules"
}

mirror_of() { # URL
  local key
  key=$(printf '%s' "$1" | sha256sum)
  printf '%s/submodules/%s.git' "$PRIVATE" "${key:0:16}"
}

resolve() { # URL REF   -> fact revision
  local url=$1 ref=$2 lines heads tags sha
  ways_of "$url"
  if [[ $ref =~ ^[0-9a-f]{40}$ ]]; then
    fact revision "$ref"
    return
  fi
  lines=$(git_safely 30 ls-remote --quiet -- "$url" "$ref" "refs/heads/$ref" "refs/tags/$ref" "refs/tags/$ref^{}" 2>&1) || {
    printf '%s\n' "$lines"
    die "cannot read $url" "check the address and that $(id -un) on this server may read it: git ls-remote $url"
  }
  if [ "$ref" = HEAD ]; then
    sha=$(awk '$2 == "HEAD" {print $1}' <<<"$lines")
    # A checkout on this machine: what is not committed is not deployed, which surprises whoever just saved a file.
    if [ -d "$url" ]; then fact uncommitted "$(git -C "$url" status --porcelain --untracked-files=no 2>/dev/null | wc -l)"; fi
  else
    heads=$(awk -v r="refs/heads/$ref" '$2 == r {print $1}' <<<"$lines")
    tags=$(awk -v r="refs/tags/$ref" -v p="refs/tags/$ref^{}" '$2 == p {peeled = $1} $2 == r {plain = $1} END {print peeled ? peeled : plain}' <<<"$lines")
    [ -z "$heads" ] || [ -z "$tags" ] || [ "$heads" = "$tags" ] || die "$ref is a branch and a tag, and they differ" "name the commit"
    sha=${heads:-$tags}
  fi
  if [ -z "$sha" ] && [[ $ref =~ ^[0-9a-f]{7,39}$ ]]; then
    sha=$(git -C "$DEPLOY_TO/repo.git" rev-parse --verify --quiet --end-of-options "$ref^{commit}" 2>/dev/null) ||
      die "no commit $ref is known here yet" "name all 40 characters, or its branch or tag"
  fi
  [ -n "$sha" ] || die "there is no branch or tag $ref in $url" "git ls-remote $url"
  fact revision "$sha"
}

mirror_fetch() { # MIRROR URL SHA
  local mirror=$1 url=$2 sha=$3
  [ -d "$mirror/objects" ] || git init --quiet --bare "$mirror"
  if git -C "$mirror" cat-file -e "$sha^{commit}" 2>/dev/null; then return; fi
  git_safely 900 -C "$mirror" fetch --quiet --force --prune --tags -- "$url" '+refs/heads/*:refs/heads/*' ||
    die "cannot fetch from $url" "check the address and that $(id -un) on this server may read it: git ls-remote $url"
  git -C "$mirror" cat-file -e "$sha^{commit}" 2>/dev/null || # not on a branch or tag: some servers give single commits
    git_safely 900 -C "$mirror" fetch --quiet -- "$url" "$sha" 2>/dev/null ||
    die "commit $sha is not in $url" "was it pushed?"
}

fetch() { # URL SHA
  ways_of "$1"
  mirror_fetch "$DEPLOY_TO/repo.git" "$1" "$2"
}

write_tree() { # MIRROR TREE DIR URL
  local mirror=$1 tree=$2 dir=$3 index=$3.index
  mkdir -p "$dir"
  if git -C "$mirror" grep -q 'filter=lfs' "$tree" -- '.gitattributes' '**/.gitattributes' 2>/dev/null; then
    git lfs version >/dev/null 2>&1 ||
      die "the repository keeps files in Git LFS and git-lfs is not installed on this server" "apt-get install git-lfs"
    git -C "$mirror" lfs fetch "$4" "$tree" >/dev/null 2>&1 || true
  fi
  rm -f "$index"
  GIT_INDEX_FILE=$index git --git-dir="$mirror" --work-tree="$dir" read-tree "$tree" ||
    die "there is no folder ${tree#*:} in commit ${tree%%:*}" "see sub_directory in releases.toml"
  (cd "$dir" && GIT_INDEX_FILE=$index git --git-dir="$mirror" --work-tree="$dir" checkout-index --all --force --quiet)
  if [ -f "$dir/.gitmodules" ]; then write_submodules "$mirror" "$dir" "$4" "$index"; fi
  rm -f "$index"
}

write_submodules() { # MIRROR DIR URL INDEX
  local name path url sha mirror
  git config -f "$2/.gitmodules" --name-only --get-regexp '\.path$' | while IFS= read -r name; do
    path=$(git config -f "$2/.gitmodules" "$name")
    url=$(git config -f "$2/.gitmodules" "${name%.path}.url")
    case $path in /* | ../* | */../* | -*) die "submodule path $path leaves the checkout" ;; esac
    case $url in
      ./* | ../*) url=$(relative_url "$3" "$url") ;;
      -*) die "submodule address $url is not one" ;;
    esac
    sha=$(GIT_INDEX_FILE=$4 git --git-dir="$1" ls-files --stage -- "$path" | awk '$1 == 160000 {print $2}')
    [ -n "$sha" ] || continue
    mirror=$(mirror_of "$url")
    mkdir -p "${mirror%/*}"
    refuse_way_of "$url"
    mirror_fetch "$mirror" "$url" "$sha"
    write_tree "$mirror" "$sha" "$2/$path" "$url"
  done
}

relative_url() { # BASE RELATIVE
  local base=${1%/} rest=$2
  while :; do
    case $rest in
      ./*) rest=${rest#./} ;;
      ../*) rest=${rest#../} base=${base%/*} ;;
      *) break ;;
    esac
  done
  printf '%s/%s' "$base" "$rest"
}

checkout() { # ID URL SHA SUB_DIRECTORY
  local dir=$STAGING/$1 mirror=$DEPLOY_TO/repo.git tree=$3${4:+:$4}
  rm -rf "$dir"
  ways_of "$2"
  write_tree "$mirror" "$tree" "$dir" "$2"
  mkdir -p "$dir/.release"
  # Object ids say what changed without reading a file: migrations, and everything that is not code.
  git -C "$mirror" ls-tree -r "$tree" >"$dir/.release/tree"
  { grep '/migrations/' "$dir/.release/tree" || true; } | sha256sum | cut -c 1-16 >"$dir/.release/migrations.key"
  { grep -Ev '\.py$' "$dir/.release/tree" || true; } | cat - <(grep -E 'settings' "$dir/.release/tree") | sha256sum | cut -c 1-16 >"$dir/.release/static.key"
}
