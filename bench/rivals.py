"""Other ways to do the same work on the same server; each is how its own documentation would have it done.

Every one fetches the commit, makes a release with an environment of its own (the in-place script: in place), migrates,
collects static files and makes the new code serve. None of them checks what it did, takes a lock or can undo: ours does.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

UV = "uv pip install -q --link-mode hardlink -r requirements.txt"

FLOOR = r"""
set -euo pipefail
B=/srv/floor; ref=$1; id=$(date -u +%Y%m%d%H%M%S%N); old=$(readlink $B/current | sed 's,.*/,,' || true); R=$B/releases/$id
exec 9>>$B/lock; flock -n 9
sha=$(git ls-remote /srv/git/pos.git "refs/heads/$ref" "refs/tags/$ref" "refs/tags/$ref^{}" | tail -n 1 | cut -f 1)
git -C $B/repo.git cat-file -e "$sha^{commit}" 2>/dev/null || git -C $B/repo.git fetch -q --tags /srv/git/pos.git '+refs/heads/*:refs/heads/*'
mkdir -p $R; git -C $B/repo.git archive "$sha" | tar -x -C $R
cd $R; ln -sfn $B/shared/media media
key=$(sha256sum < requirements.txt | cut -c 1-16)
venv=$B/environments/$key
if [ ! -e $venv ]; then
  uv venv -q --relocatable $venv.new; VIRTUAL_ENV=$venv.new uv pip install -q --compile-bytecode --require-hashes -r requirements.txt
  mv $venv.new $venv; fi
ln -s $venv .venv
find . -name '*.py' | .venv/bin/python -IS -m py_compile -
static=$(git -C $B/repo.git ls-tree -r "$sha" | grep -v '\.py$' | sha256sum | cut -c 1-16)
set -a; . $B/shared/env; set +a; export RELEASE_ID=$id
if [ -n "$old" ] && [ "$(cat $B/releases/$old/.static)" = "$static" ]; then cp -al $B/releases/$old/staticfiles staticfiles; else
  .venv/bin/python manage.py collectstatic --noinput -v 0; fi
echo "$static" > .static
ln -sfn /run/floor/$id.sock web.sock
sync -f $R
sudo -n systemctl start --no-block floor-worker@$id.service
(.venv/bin/python manage.py check --deploy >/dev/null 2>&1; .venv/bin/python manage.py migrate --noinput -v 0) & check=$!
sudo -n systemctl start floor-web@$id.service
wait $check
curl -fsS -m 10 -o /dev/null --unix-socket /run/floor/$id.sock http://localhost/healthz
ln -s releases/$id $B/.current.$id; mv -T $B/.current.$id $B/current; sync $B
curl -fsS -m 10 -H 'Host: floor.test' http://127.0.0.1/healthz | grep -q "$id"
sudo -n systemctl restart --no-block floor-beat.service
if [ -n "$old" ]; then sudo -n systemctl stop --no-block floor-web@$old.service floor-web@$old.socket floor-worker@$old.service; fi
ls -1 $B/releases | sort | head -n -4 | while read -r one; do mv $B/releases/$one $B/gc-$one; done
(rm -rf $B/gc-* >/dev/null 2>&1 9>&- &)
"""

FLOOR_ROLLBACK = r"""
set -euo pipefail
B=/srv/floor; old=$(readlink $B/current | sed 's,.*/,,'); id=$(ls -1 $B/releases | sort | grep -B 1 -x "$old" | head -n 1)
exec 9>>$B/lock; flock -n 9
sudo -n systemctl start --no-block floor-worker@$id.service
sudo -n systemctl start floor-web@$id.service
curl -fsS -m 10 -o /dev/null --unix-socket /run/floor/$id.sock http://localhost/healthz
ln -s releases/$id $B/.current.$id; mv -T $B/.current.$id $B/current; sync $B
curl -fsS -m 10 -H 'Host: floor.test' http://127.0.0.1/healthz | grep -q "$id"
sudo -n systemctl restart --no-block floor-beat.service
sudo -n systemctl stop --no-block floor-web@$old.service floor-web@$old.socket floor-worker@$old.service
"""

IN_PLACE = r"""
set -e
cd /srv/inplace/app
git fetch -q origin --tags && git checkout -q -f "$1"
.venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
set -a; . /srv/inplace/env; set +a
.venv/bin/python manage.py migrate --noinput -v 0
.venv/bin/python manage.py collectstatic --noinput -v 0
sudo -n systemctl restart inplace-web.service inplace-worker.service inplace-beat.service
"""

CAPFILE = 'require "capistrano/setup"\nrequire "capistrano/deploy"\nrequire "capistrano/scm/git"\ninstall_plugin Capistrano::SCM::Git\n'

CAP_DEPLOY = """
lock "~> 3.17"
set :application, "cap"
set :repo_url, "/srv/git/pos.git"
set :branch, ENV.fetch("REF")
set :deploy_to, "/srv/cap"
set :keep_releases, 4
set :linked_dirs, %w[media]
set :format, :simpletext
set :log_level, :error
namespace :deploy do
  after :updated, :application do
    on roles(:app) do
      within release_path do
        execute :uv, "venv -q --relocatable .venv"
        with VIRTUAL_ENV: "#{release_path}/.venv" do
          execute :uv, "pip install -q --compile-bytecode --require-hashes -r requirements.txt"
        end
        execute :bash, "-c 'set -a; . /srv/cap/shared/env; .venv/bin/python manage.py migrate --noinput -v 0'"
        execute :bash, "-c 'set -a; . /srv/cap/shared/env; .venv/bin/python manage.py collectstatic --noinput -v 0'"
      end
    end
  end
  after :published, :restart do
    on roles(:app) do
      execute :sudo, "-n systemctl restart cap-web.service cap-worker.service cap-beat.service"
    end
  end
  after :finishing_rollback, :restart_old do
    on roles(:app) do
      execute :sudo, "-n systemctl restart cap-web.service cap-worker.service cap-beat.service"
    end
  end
end
"""

PLAYBOOK = """
- hosts: all
  gather_facts: false
  vars:
    base: /srv/ansible
    stamp: "{{ lookup('pipe', 'date -u +%Y%m%d%H%M%S') }}"
  tasks:
    - set_fact: { release: "{{ base }}/releases/{{ stamp }}" }
    - git: { repo: /srv/git/pos.git, dest: "{{ base }}/repo", version: "{{ ref }}", force: true }
    - file: { path: "{{ release }}", state: directory }
    - command: "cp -a {{ base }}/repo/. {{ release }}/"
    - file: { src: "{{ base }}/shared/media", dest: "{{ release }}/media", state: link, force: true }
    - command: { cmd: "uv venv -q --relocatable .venv", chdir: "{{ release }}" }
    - command: { cmd: "uv pip install -q --compile-bytecode --require-hashes -r requirements.txt", chdir: "{{ release }}" }
      environment: { VIRTUAL_ENV: "{{ release }}/.venv" }
    - shell: { cmd: "set -a; . {{ base }}/shared/env; .venv/bin/python manage.py migrate --noinput -v 0", chdir: "{{ release }}" }
    - shell: { cmd: "set -a; . {{ base }}/shared/env; .venv/bin/python manage.py collectstatic --noinput -v 0", chdir: "{{ release }}" }
    - file: { src: "{{ release }}", dest: "{{ base }}/current", state: link, force: true }
    - command: "sudo -n systemctl restart ansible-web.service ansible-worker.service ansible-beat.service"
    - shell: "ls -1d {{ base }}/releases/* | sort | head -n -4 | xargs -r rm -rf"
"""

PLAYBOOK_ROLLBACK = """
- hosts: all
  gather_facts: false
  tasks:
    - shell: "ls -1d /srv/ansible/releases/* | sort | tail -n 2 | head -n 1"
      register: found
    - file: { src: "{{ found.stdout }}", dest: /srv/ansible/current, state: link, force: true }
    - command: "sudo -n systemctl restart ansible-web.service ansible-worker.service ansible-beat.service"
"""

SERVICE = """
[Unit]
Description={app} {name}
After=network.target
[Service]
User=app
Group=www-data
UMask=0007
WorkingDirectory={root}
EnvironmentFile={environment}
Environment=RELEASE_ID={id}
ExecStart={root}/.venv/bin/python -m {command}
Restart=on-failure
{more}
"""

COMMANDS = {
    "web": "gunicorn pos.wsgi:application --workers 2 --threads 4 --no-control-socket",
    "worker": "celery -A pos worker -c 1 -Q celery,reports",
    "beat": "celery -A pos beat -s /tmp/{app}-beat --pidfile=",
}
NGINX = "server {{ listen 80; server_name {app}.test; location / {{ proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto https; proxy_pass http://unix:{socket}; }} }}\n"


def units(app: str) -> dict[str, str]:
    """The usual set-up: one unit a service, gunicorn owns its socket, `current` or the checkout is the folder."""
    root = "/srv/inplace/app" if app == "inplace" else f"/srv/{app}/current"
    environment = "/srv/inplace/env" if app == "inplace" else f"/srv/{app}/shared/env"
    files = {}
    for name, command in COMMANDS.items():
        bind = f" --bind unix:/run/{app}/web.sock" if name == "web" else ""
        more = f"RuntimeDirectory={app}\nRuntimeDirectoryMode=0755\nType=notify" if name == "web" else ""
        files[f"/etc/systemd/system/{app}-{name}.service"] = SERVICE.format(
            app=app,
            name=name,
            root=root,
            environment=environment,
            id=app,
            command=command.format(app=app) + bind,
            more=more,
        )
    files[f"/etc/nginx/conf.d/{app}.conf"] = NGINX.format(app=app, socket=f"/run/{app}/web.sock")
    files[f"/etc/sudoers.d/{app}"] = "deploy ALL=(root) NOPASSWD: /usr/bin/systemctl\n"
    return files


def floor_units() -> dict[str, str]:
    """A generation per release behind current/web.sock: the same way of switching as ours."""
    files = {}
    for name, command in COMMANDS.items():
        single = name == "beat"
        more = "Requires=floor-web@%i.socket" if name == "web" else ""
        text = SERVICE.format(
            app="floor",
            name=name,
            root="/srv/floor/current" if single else "/srv/floor/releases/%i",
            environment="/srv/floor/shared/env",
            id="%i",
            command=command.format(app="floor"),
            more="Type=notify\nKillMode=control-group" if name == "web" else "KillMode=mixed",
        )
        files[f"/etc/systemd/system/floor-{name}{'' if single else '@'}.service"] = text.replace(
            "[Service]", f"{more}\n[Service]", 1
        )
    files["/etc/systemd/system/floor-web@.socket"] = (
        "[Socket]\nListenStream=/run/floor/%i.sock\nSocketUser=app\nSocketGroup=www-data\nSocketMode=0660\nRemoveOnStop=yes\n"
    )
    files["/etc/nginx/conf.d/floor.conf"] = NGINX.format(app="floor", socket="/srv/floor/current/web.sock")
    files["/etc/sudoers.d/floor"] = "deploy ALL=(root) NOPASSWD: /usr/bin/systemctl\n"
    return files


@dataclass(frozen=True)
class Rival:
    """How to call one tool from the operator's folder; `{ref}` is the commit."""

    name: str
    deploy: list[str]
    rollback: list[str]
    script: str = ""
    rollback_script: str = ""


def rivals(folder: Path, ssh: list[str], address: str, port: int, key: Path) -> list[Rival]:
    """Writes what each tool reads into `folder`."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    cap = folder / "cap"
    (cap / "config" / "deploy").mkdir(parents=True)
    (cap / "Capfile").write_text(CAPFILE)
    (cap / "config" / "deploy.rb").write_text(CAP_DEPLOY)
    (cap / "config" / "deploy" / "production.rb").write_text(
        f'server "{address}", user: "deploy", port: {port}, roles: %w[app web db], ssh_options: {{ keys: ["{key}"], verify_host_key: :never, forward_agent: false }}\n'
    )
    (folder / "deploy.yml").write_text(PLAYBOOK)
    (folder / "rollback.yml").write_text(PLAYBOOK_ROLLBACK)
    (folder / "hosts").write_text(
        f"server ansible_host={address} ansible_port={port} ansible_user=deploy ansible_ssh_private_key_file={key}\n"
    )
    (folder / "ansible.cfg").write_text(
        "[defaults]\nhost_key_checking=False\ninterpreter_python=/usr/bin/python3\n[ssh_connection]\npipelining=True\n"
        f"ssh_args=-o ControlMaster=auto -o ControlPersist=60s {shlex.join(options)}\n"
    )
    shell = [*ssh[:1], "-p", str(port), "-i", str(key), *options, f"deploy@{address}", "bash -s --"]
    return [
        Rival("floor: one hand-written script", [*shell, "{ref}"], shell, FLOOR, FLOOR_ROLLBACK),
        Rival("deploy.sh in place", [*shell, "{ref}"], [*shell, "{old}"], IN_PLACE, IN_PLACE),
        Rival("Capistrano", ["cap", "production", "deploy"], ["cap", "production", "deploy:rollback"]),
        Rival(
            "Ansible (pipelining)",
            ["ansible-playbook", "-i", "hosts", "-e", "ref={ref}", "deploy.yml"],
            ["ansible-playbook", "-i", "hosts", "rollback.yml"],
        ),
    ]
