"""A server made ready to be deployed to: what provisioning will do, in its simplest form, from the same templates."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.config.load import load, stage
from tasks.model.call import Call
from tasks.model.machine import Part
from tasks.model.shell import Secret
from tasks.remote.files import server_files, systemctl
from tasks.remote.library import server_code

from .server import Server, client_key

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "examples" / "pos" / "requirements.txt"

ENVIRONMENT = """\
SECRET_KEY=only-for-tests-{secret}-0123456789abcdefghijklmnopqrstuvwxyz
ALLOWED_HOSTS=localhost,127.0.0.1,pos.test
DATABASE_URL=postgres://pos:pos@{database}:5432/pos
REDIS_URL=redis://{database}:6379/0
POS_SLOW=1
POS_BEAT_SECONDS=2
"""

TOML = """\
application = "pos"
repository = "/srv/git/pos.git"
branch = "main"
deploy_to = "/srv/pos"
app_user = "app"
domain = "pos.test"
shared_dirs = ["media"]
keep_releases = 3

[django]
wsgi = "pos.wsgi:application"
settings = "pos.settings"

[health]
path = "/healthz"
deadline = "30s"

[services.web]
kind = "web"
workers = {workers}

[services.worker]
kind = "worker"
application = "pos"
workers = 1
queues = ["celery", "reports"]
stop_timeout = "30s"

[services.beat]
kind = "beat"
application = "pos"

{more}
[stages.production]
hosts = [
{hosts}
]
"""


def install_parts(server: Server, parts: Sequence[Part]) -> None:
    """Their files, as provisioning would."""
    for part in parts:
        for said in (said for thing in part.things for said in thing.make.calls):
            if not isinstance(said, Call):
                continue
            if said.function == "installed.place.make":
                install_programs(server)
            elif said.function == "make.file.make":
                text = said.arguments["text"]
                content = text.value if isinstance(text, Secret) else text
                server.put(said.arguments["path"], content, mode=int(said.arguments["mode"], 8))
    server.run("install -d -m 755 /var/lib/fab-releases && systemctl daemon-reload")


def install_programs(server: Server) -> None:
    """What timers and units start, where their stubs look for it."""
    folder = "/usr/local/lib/fab-releases/pos-server"
    server.run(f"mkdir -p {folder} && base64 -d | tar -xz -C {folder}", input=server_code()[1].encode())


def fill(server: Server, origin: Path, where: str = "/srv/git/pos.git") -> None:
    """Puts the repository `origin` on the server, as the place the server fetches from."""
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        archive.add(origin / ".git", arcname=".")
    server.run(
        f"mkdir -p {where} && tar -x -C {where} && git -C {where} config core.bare true && chown -R deploy: {where}",
        input=text.getvalue(),
    )


@dataclass(frozen=True)
class Shop:
    """A folder with releases.toml and a fabfile, as a team has it, and the servers it names."""

    folder: Path
    servers: tuple[Server, ...]
    workers: int = 1
    """Web processes of a release. Each one more is half a second of processor time in every deploy and every boot."""

    @property
    def server(self) -> Server:
        return self.servers[0]

    def fab(
        self, *words: str, check: int | None = 0, timeout: float = 180, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs `fab WORDS` there; `check` is the exit code to insist on, None for any."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check is not None:
            assert done.returncode == check, f"fab {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def command(self, *words: str) -> list[str]:
        return [str(Path(sys.executable).parent / "fab"), *words]

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        # Compiling all of it again in each of a thousand calls is a third of a second of processor time each.
        others = ("GITHUB_", "GITLAB_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        return kept | {"PYTHONPATH": str(ROOT), "CI": ""} | (more or {})

    def configure(self, more: str = "", roles: Sequence[str] = (), addresses: Sequence[tuple[str, int]] = ()) -> None:
        hosts = []
        for index, server in enumerate(self.servers):
            key = " ".join(server.known_hosts.splitlines()[0].split()[1:3])
            address, port = addresses[index] if addresses else (server.address, server.ssh_port)
            role = roles[index] if roles else ('["web", "worker", "beat", "db"]' if index == 0 else '["web", "worker"]')
            hosts.append(
                f'  {{ name = "app{index + 1}", address = "{address}", port = {port}, user = "deploy", roles = {role}, '
                f'host_key = "{key}", identity = "{client_key()}" }},'
            )
        (self.folder / "releases.toml").write_text(TOML.format(more=more, workers=self.workers, hosts="\n".join(hosts)))
        (self.folder / "fabfile.py").write_text("from tasks import namespace\n")

    def install(self) -> None:
        """Units, nginx and sudoers of the configuration as it stands, on every server."""
        here = stage(load(self.folder / "releases.toml"))
        for server, host in zip(self.servers, here.hosts, strict=True):
            for path, text in server_files(here, host).items():
                mode = 0o440 if "sudoers" in path else 0o755 if path == systemctl(here) else 0o644
                server.put(path, text, mode=mode)
            server.run(
                "visudo -cqf /etc/sudoers.d/pos && systemctl daemon-reload && systemctl enable -q pos.service && "
                "ln -sf /etc/nginx/sites-available/pos /etc/nginx/sites-enabled/pos && "
                "rm -f /etc/nginx/sites-enabled/default && "
                "nginx -q -t && systemctl reload-or-restart nginx"
            )

    def put_environment(self, more: str = "") -> None:
        for server in self.servers:
            text = ENVIRONMENT.format(secret="canary", database=self.server.address) + more
            server.put("/srv/pos/shared/.env.production", text, mode=0o640, owner="deploy:env-app")

    def current(self, server: Server | None = None) -> str:
        return (server or self.server).run("readlink /srv/pos/current || true").stdout.strip().removeprefix("releases/")

    def get(self, path: str = "/healthz", server: Server | None = None) -> str:
        return (server or self.server).run(f"curl -sS -m 10 -H 'Host: pos.test' http://127.0.0.1{path}").stdout


def prepare(server: Server, origin: Path) -> None:
    """The repository and the folders of the application."""
    fill(server, origin)
    server.run(
        "install -d -o deploy -g app -m 750 /srv/pos /srv/pos/shared && "
        "install -d -o app -g app -m 2770 /srv/pos/shared/media && "
        "groupadd --system env-app && usermod -aG app,env-app deploy && usermod -aG env-app app && "
        "usermod -aG app www-data && gpasswd -d app www-data"
    )


def make_shop(folder: Path, servers: Sequence[Server], origin: Path, more: str = "", workers: int = 1) -> Shop:
    """`servers` become a fleet whose first one has the database; `folder` becomes the operator's."""
    folder.mkdir(parents=True, exist_ok=True)
    shop = Shop(folder, tuple(servers), workers)
    # Whoever tests from here may ask which release answers.
    trusted = ", ".join(f'"{server.link.outside}"' for server in servers)
    shop.configure(f"{more}\n[nginx]\ntrusted_proxies = [{trusted}]\n")
    first = servers[0]
    for server in servers:
        prepare(server, origin)
    first.run(
        "pg_conftool 15 main set listen_addresses '*' && "
        "echo 'host all pos 10.0.0.0/8 scram-sha-256' >> /etc/postgresql/15/main/pg_hba.conf && "
        "sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode yes/protected-mode no/' /etc/redis/redis.conf && "
        "systemctl restart postgresql@15-main redis-server"
    )
    first.run(
        "until pg_isready -q; do sleep 0.1; done; "
        """psql -qc "create role pos login createdb password 'pos'" -c "create database pos owner pos" """,
        user="postgres",
    )
    shop.put_environment()
    shop.install()
    return shop
