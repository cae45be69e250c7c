"""What releases.toml may say: each value, its default and its meaning.

The one source of validation, of the JSON Schema for editors and of docs/reference/configuration.md: a field's
docstring is its documentation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from . import naming
from .backup import Backup, Recover
from .layout import Layout
from .server import Nginx, Provision, Tls
from .topology import Host as Host
from .topology import Topology
from .typed import (
    PLAIN_ADDRESS,
    STRICT,
    Count,
    Duration,
    Hook,
    Host_,
    Inside,
    Line,
    Match,
    Module,
    Name,
    OptionalAccount,
    OptionalName,
    Place,
    Port,
    Positive,
    Reference,
    Relative,
    SingleDashes,
    Text,
    Variable,
)


@dataclass(frozen=True, kw_only=True)
class Python:
    """The environment each release gets."""

    __pydantic_config__ = STRICT

    version: Annotated[str, Match(r"(3\.\d{1,2})?", 'a Python version such as "3.12"')] = ""
    """Python to use; empty: the server's python3. It must be installed there."""
    requirements: Relative = ""
    """Lock or requirements file. Empty: the first found of uv.lock, pylock.toml, requirements.txt, pyproject.toml."""
    constraints: Relative = ""
    """A constraints file in the repository that pins what the requirements leave open."""
    extra: tuple[Line, ...] = ()
    """Packages to install as well, for example ["gunicorn==27.0.1"]."""
    groups: tuple[Name, ...] = ()
    """Dependency groups of pyproject.toml to install (uv.lock)."""
    installer: Literal["uv", "pip"] = "uv"
    """uv is brought along where a server lacks it; pip is the fallback."""


@dataclass(frozen=True, kw_only=True)
class Django:
    """How the project is laid out and what is asked of it."""

    __pydantic_config__ = STRICT

    manage: Inside = "manage.py"
    """manage.py; its folder is the working directory of every command."""
    settings: Module = ""
    """DJANGO_SETTINGS_MODULE; empty: the environment file's, or the one manage.py sets."""
    wsgi: Module = ""
    """What the web service serves, as "pos.wsgi:application"."""
    check: bool = True
    """Run `check --deploy`; errors stop the deploy, warnings are counted."""
    migrate: bool = True
    """Run migrations, once, on the first host with the role db."""
    collectstatic: bool = True
    """Collect static files into the release and keep old hashed files served."""
    static_root: Inside = "staticfiles"
    """STATIC_ROOT, relative to the folder of manage.py."""
    strict: bool = True
    """Refuse DEBUG, a guessable SECRET_KEY and a database that would start empty with each release."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The variables of the application: one file, read in one way by build, migrate and services."""

    __pydantic_config__ = STRICT

    file: Relative = ".env.production"
    """In shared/; carried byte for byte, never sourced. Empty: none."""
    format: Literal["dotenv", "decouple", "systemd", "shell", "none"] = "dotenv"
    """How it is read. "none": the application reads the file itself."""
    source: Line = ""
    """A command that prints the file, as "sops -d production.env". `fab env.push` and `env.diff` run it here, on your
    machine, without a shell."""
    set: Mapping[Variable, Text] = field(default_factory=dict)
    """Variables that are no secret; the file wins."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Something that runs as long as its release is live."""

    __pydantic_config__ = STRICT

    kind: Literal["web", "worker", "beat"]
    """web gets the release's socket; worker hands over; beat is exactly one in the whole stage."""
    command: Line = ""
    """What to run. Empty: gunicorn for web, Celery for worker and beat."""
    application: Module = ""
    """Celery application ("pos"), or what gunicorn serves (default: [django] wsgi)."""
    workers: Count = 0
    """gunicorn workers; 0: 2 x cores + 1. Celery: --concurrency; 0: cores."""
    threads: Positive = 4
    """gunicorn threads per worker."""
    queues: tuple[Name, ...] = ()
    """Celery queues to consume; empty: the default queue."""
    notify: bool = True
    """The command says READY itself (gunicorn and Celery do). False: it is ready when it still runs after `settle`."""
    settle: Duration = "2s"
    """How long a command that does not say READY must run."""
    stop_timeout: Duration = "600s"
    """How long work in hand may take to finish when the service is told to stop."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """When a release counts as well."""

    __pydantic_config__ = STRICT

    path: Annotated[str, Match(r"/[^\s]*", "a path that starts with /")] = "/healthz"
    """Asked on the private socket before the switch, and through the front door after it."""
    host: Host_ = ""
    """Host header; empty: the stage's domain."""
    headers: Mapping[Annotated[str, Match(r"[A-Za-z0-9-]+", "the name of a header")], Line] = field(
        default_factory=dict
    )
    """More headers, for example {"X-Forwarded-Proto" = "https"}."""
    expect: tuple[Annotated[int, Match(r"[1-5]\d\d", "a status code such as 200")], ...] = (200,)
    """Status codes that mean well."""
    contains: Text = ""
    """Text the answer must contain."""
    front: Annotated[str, Match(r"(https?://[A-Za-z0-9.:\[\]-]+)?", 'a URL without a path, as "http://127.0.0.1"')] = ""
    """Where users come in, as the server sees it: "http://127.0.0.1" (nginx), "https://pos.example.com"; empty: nginx
    on port 80 of the server itself (sandbox: its own port)."""
    release: Literal["proof", "trust"] = "proof"
    """proof: the answer must name the release, by the header X-Release (gunicorn: by itself) or in its body."""
    timeout: Duration = "10s"
    """For one answer."""
    deadline: Duration = "60s"
    """For being well at all; a slow first request fits in here."""
    successes: Positive = 2
    """Good answers in a row."""


@dataclass(frozen=True, kw_only=True)
class Database:
    """The database the releases share."""

    __pydantic_config__ = STRICT

    engine: Literal["postgresql", "sqlite", "mysql", "any"] = "postgresql"
    """What the settings must end up with; anything else stops the deploy."""
    restore_point: bool = True
    """Take one before migrating."""
    lock_timeout: Duration = "5s"
    """A migration that waits longer for a lock fails, instead of making every user wait."""
    statement_timeout: Duration = "0s"
    """For one statement of a migration; 0s: none."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Your own commands, run in the release's folder with its environment. A failing one fails the step.

    A command that starts with "-" may fail; one that starts with "first:" runs at the first deploy to a server only.
    """

    __pydantic_config__ = STRICT

    after_checkout: tuple[Hook, ...] = ()
    """Before the venv is built."""
    before_static: tuple[Hook, ...] = ()
    """After the venv: compile messages, themes, npm."""
    after_static: tuple[Hook, ...] = ()
    """After collectstatic: compress."""
    before_switch: tuple[Hook, ...] = ()
    """On every host when all are ready; the release is not yet served."""
    after_switch: tuple[Hook, ...] = ()
    """On every host when the release is served; a failure is a warning."""


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who is told how a deploy ended, and that a backup failed."""

    __pydantic_config__ = STRICT

    webhook_variable: Annotated[str, Match(r"([A-Za-z_][A-Za-z0-9_]*)?", "the name of an environment variable")] = ""
    """Name of a variable of *your* environment holding a URL that gets a JSON POST (Slack, Mattermost, your own). Where
    the environment file has it too, the server tells it of backups and drills that failed while nobody was there."""


@dataclass(frozen=True, kw_only=True)
class Stage(Topology):
    """Everything that is true of one stage: the top of releases.toml with the stage's own table laid over it."""

    __pydantic_config__ = STRICT

    name: Name
    """The stage's name."""
    application: SingleDashes
    """Names what is on the servers."""
    repository: Annotated[str, Match(PLAIN_ADDRESS, "a git URL or a folder, without spaces or shell characters")]
    """git URL the servers fetch from, or a folder. A relative one (sandbox) is made absolute as well."""
    deploy_to: Place
    """Folder that holds current, releases and shared. Beside releases.toml, it is made absolute when that is read."""
    hosts: tuple[Host, ...]
    """Servers. The first is asked first."""
    branch: Reference = "main"
    """What is deployed when --ref says nothing. "HEAD" (sandbox): the commit checked out here."""
    sub_directory: Relative = ""
    """Folder of the repository that is the release; empty: all of it."""
    keep_releases: Positive = 5
    """Releases that were live to keep, besides the current one's predecessor and what still runs."""
    shared_dirs: tuple[Inside, ...] = ()
    """Folders that outlive releases: linked from shared/."""
    shared_files: tuple[Inside, ...] = ()
    """Files that outlive releases; each must exist on the server before anything is built."""
    domain: Host_ = ""
    """The name users type."""
    port: Port = 8000
    """Sandbox: the port on 127.0.0.1."""
    manager: Literal["systemd", "supervisor"] = "systemd"
    """What keeps services running: systemd, or supervisord as a plain user (sandbox)."""
    name_on_servers: OptionalName = ""
    """What all that belongs to this stage alone is called there: units, /run folder, site, database, users of
    PostgreSQL and Redis, sudo rules. Empty: the application; of another stage than production APPLICATION--STAGE."""
    app_user: OptionalAccount = ""
    """Account the services run as (systemd); it cannot write code. Empty: "app-" and name_on_servers. On a server where
    deploy_to has another one already, `fab provision` keeps that and says so."""
    keep_warm: bool = False
    """Leave the previous release running, so that a rollback is one rename. Costs its memory."""
    batch: Count = 0
    """Hosts that switch at a time; 0: all together."""
    minimum_free: Annotated[str, Match(r"\d+(MB|GB)", 'a size such as "500MB"')] = "500MB"
    """Free disk space to insist on before building."""
    build_timeout: Duration = "30m"
    """For one phase on one host; the work is ended there, too."""
    python: Python = field(default_factory=Python)
    """The environment each release gets."""
    django: Django = field(default_factory=Django)
    """The project."""
    environment: Environment = field(default_factory=Environment)
    """The application's variables."""
    services: Mapping[Name, Service] = field(default_factory=dict)
    """What runs."""
    health: Health = field(default_factory=Health)
    """When a release counts as well."""
    database: Database = field(default_factory=Database)
    """The database."""
    hooks: Hooks = field(default_factory=Hooks)
    """Your own commands."""
    notify: Notify = field(default_factory=Notify)
    """Who is told."""
    provision: Provision = field(default_factory=Provision)
    """The servers themselves."""
    backup: Backup = field(default_factory=Backup)
    """Backups of the database."""
    recover: Recover = field(default_factory=Recover)
    """For a drill: what another stage lost, made again here."""
    nginx: Nginx = field(default_factory=Nginx)
    """How requests reach the application."""
    tls: Tls = field(default_factory=Tls)
    """How users reach the application encrypted."""

    def __post_init__(self) -> None:
        """As a stage that is alone on its servers; `load` knows better."""
        if not self.app_user:
            object.__setattr__(self, "app_user", naming.account(self.known_as))

    @property
    def known_as(self) -> str:
        """Its name on its servers."""
        return self.name_on_servers or self.application

    @property
    def word(self) -> str:
        """Its name where only letters, digits and _ are known."""
        return naming.word(self.known_as)

    @property
    def layout(self) -> Layout:
        """systemd owns /run/<name_on_servers>; the sandbox needs a short path: unix sockets end at 107 bytes."""
        base = PurePosixPath(self.deploy_to)
        if self.manager == "systemd":
            return Layout(base, PurePosixPath("/run") / self.known_as)
        key = hashlib.sha256(str(base).encode()).hexdigest()[:10]
        return Layout(base, PurePosixPath("/tmp") / f"fab-releases-{key}")

    @property
    def directory(self) -> str:
        """The folder of manage.py inside the release; "" when it is the release itself."""
        parent = str(PurePosixPath(self.django.manage).parent)
        return "" if parent == "." else parent

    @property
    def names(self) -> tuple[str, ...]:
        """What users may type; the first is the one they end up at. Without a domain: none."""
        return (self.domain, *self.tls.names) if self.domain else ()

    @property
    def is_encrypted(self) -> bool:
        return self.tls.certificate != "none"

    @property
    def trusted_networks(self) -> tuple[str, ...]:
        """Whose word for who came is taken."""
        return tuple(dict.fromkeys((*(host.inside for host in self.balancers), *self.nginx.trusted_proxies)))

    def encrypts_on(self, host: Host) -> bool:
        return self.is_encrypted and host in self.doors

    @property
    def certificate(self) -> str:
        """Its path on the servers, with its chain."""
        return self._certbot("fullchain") or self.tls.fullchain

    @property
    def certificate_key(self) -> str:
        return self._certbot("privkey") or self.tls.key

    def _certbot(self, name: str) -> str:
        certbot = self.tls.certificate == "certbot"
        return f"/etc/letsencrypt/live/{self.known_as}/{name}.pem" if certbot else ""

    @property
    def has_postgresql(self) -> bool:
        """Whether a PostgreSQL is ours to set up."""
        return self.provision.postgresql and self.database.engine in ("postgresql", "any")

    @property
    def is_archived(self) -> bool:
        """Whether its database can be put back as it was at any second."""
        return self.backup.engine == "pgbackrest" and self.has_postgresql and self.manager == "systemd"

    def sends_apart(self, host: Host) -> bool:
        """Whether it has the database alone, and by a timer of its own sends away what no dump has."""
        is_apart = self.has_postgresql and host == self.database_host != self.primary
        return self.backup.enabled and bool(self.backup.repository) and is_apart

    @property
    def has_bouncer(self) -> bool:
        return self.provision.pgbouncer and self.has_postgresql

    def services_on(self, host: Host) -> dict[str, Service]:
        return {name: one for name, one in self.services.items() if one.kind in host.roles}

    @property
    def fingerprint(self) -> str:
        """Changes when a release built now would run something else from the same commit."""
        parts: dict[str, Any] = {
            name: asdict(getattr(self, name)) for name in ("python", "django", "environment", "hooks")
        }
        del parts["environment"]["source"]  # where the operator has the file from
        parts |= {"services": {name: asdict(one) for name, one in self.services.items()}}
        parts |= {"shared": [self.shared_dirs, self.shared_files, self.sub_directory]}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def seconds(duration: str) -> float:
    """ "500ms" -> 0.5; a bare number is seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)):
        if duration.endswith(unit):
            return float(duration.removesuffix(unit)) * factor
    return float(duration)


def megabytes(size: str) -> int:
    return int(size[:-2]) * (1024 if size.endswith("GB") else 1)
