"""A mistake in releases.toml is found before anything happens, and said where it was made."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from pydantic import ValidationError

from tasks.config.lines import lines
from tasks.config.load import Config, adapter, load, stage
from tasks.config.passwords import passwords
from tasks.config.reference import JSON_SCHEMA, REFERENCE, explain, json_schema, main, reference, tables
from tasks.config.shape import Unfit, fields_of, fitted, mismatches
from tasks.model.archive import Bucket
from tasks.model.config import Host, Service, Stage
from tasks.model.errors import UsageError

ROOT = Path(__file__).parent.parent
KEY = "ssh-ed25519 " + base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + b"k" * 32).decode()
NO_KEY = 'must be a type and a key in base64, as "ssh-ed25519 AAAA..."'
GOOD = """\
application = "pos"
repository = "https://git.example.com/pos.git"
deploy_to = "/var/www/pos"

[django]
wsgi = "pos.wsgi:application"

[services.web]
kind = "web"

[stages.production]
hosts = [{ name = "web1", address = "203.0.113.10" }]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> Config:
    Path("releases.toml").write_text(text)
    return load(Path("releases.toml"))


def wrong(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.code == 2
    return [line.removeprefix("releases.toml:") for line in caught.value.message.splitlines()]


def test_the_file_in_this_repository_works_as_it_stands() -> None:
    config = load(ROOT / "releases.toml")
    sandbox, production = stage(config), stage(config, "production")
    assert (sandbox.name, sandbox.repository, sandbox.deploy_to) == ("sandbox", str(ROOT), str(ROOT / ".sandbox"))
    assert (sandbox.branch, sandbox.port, sandbox.manager, set(sandbox.services)) == (
        "HEAD",
        8000,
        "supervisor",
        {"web"},
    )
    assert (production.primary.port, production.primary.user) == (7822, "deploy")
    assert {one.kind for one in production.services.values()} == {"web", "worker", "beat"}
    assert production.services["worker"].queues == ("celery", "reports")
    assert production.environment.set == {}


def test_a_stage_is_laid_over_the_top() -> None:
    production = stage(read(GOOD + "django.check = false\nservices.web.workers = 3\nkeep_releases = 2\n"))
    assert (production.django.wsgi, production.django.check) == ("pos.wsgi:application", False)
    assert (production.services["web"].kind, production.services["web"].workers) == ("web", 3)
    assert (production.keep_releases, production.name) == (2, "production")


def test_lists_are_replaced_not_joined() -> None:
    text = 'shared_dirs = ["media", "logs"]\n' + GOOD + 'shared_dirs = ["files"]\n'
    assert stage(read(text)).shared_dirs == ("files",)


def test_every_mistake_is_listed_once_in_the_order_of_the_file() -> None:
    text = """\
default_stage = "sandbox"
application = 5
linked_dirs = ["media"]

[python]
version = "3"
domain = "x"

[django]
managed = "x"

[stages.production]
hosts = [
  { name = "a", prot = 7, port = "22", roles = ["wbe"] },
  { address = "-x", port = 70000 },
]
when = 2020-01-01
keep_releases = 2020-01-01
minimum_free = "5"
[stages.production.environment.set]
"1A" = "x"
B = 5
[stages.sand-box]
repository = "."
"""
    assert wrong(text) == [
        "1: default_stage: must be one of the stages: production, sand-box",
        "1: deploy_to: missing, at the top or in every stage",
        "2: application: must be text in quotes, not a number",
        "3: linked_dirs: unknown key; here it is called shared_dirs",
        '6: python.version: must be a Python version such as "3.12"',
        "7: python.domain: unknown key; domain belongs above the first [table], or right below [stages.NAME]",
        '10: django.managed: unknown key; did you mean "manage"?',
        "12: stages.production.repository: missing",
        "14: stages.production.hosts[0].port: must be a whole number, not text",
        '14: stages.production.hosts[0].prot: unknown key; did you mean "port"?',
        '14: stages.production.hosts[0].roles[0]: must be "web", "worker", "beat", "db", "postgresql", "redis", '
        '"replica" or "balancer"; did you mean "web"?',
        "15: stages.production.hosts[1].address: must be a host name or an IP address",
        "15: stages.production.hosts[1].name: missing",
        "15: stages.production.hosts[1].port: must be a port: 1 to 65535",
        "17: stages.production.when: unknown key",
        "18: stages.production.keep_releases: must be a whole number, not a date or time",
        '19: stages.production.minimum_free: must be a size such as "500MB"',
        "21: stages.production.environment.set.1A: must be the name of an environment variable",
        "22: stages.production.environment.set.B: must be text in quotes, not a number",
        "23: stages.sand-box.hosts: missing",
    ]


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ('repo_url = "x"', "repo_url: unknown key; here it is called repository"),
        ('deploy_path = "x"', "deploy_path: unknown key; here it is called deploy_to"),
        ("linked_files = []", "linked_files: unknown key; here it is called shared_files"),
        ('repo_tree = "x"', "repo_tree: unknown key; here it is called sub_directory"),
        ('name = "x"', "name: unknown key; a stage is named by its heading, [stages.NAME]"),
        ('wsgi = "x"', "wsgi: unknown key; it belongs in [django]"),
        ('"a b" = 1', '"a b": unknown key'),
        ("services.web.kind = []", 'services.web.kind: must be "web", "worker" or "beat", not a list'),
        ('services.web.kind = "webb"', 'services.web.kind: must be "web", "worker" or "beat"; did you mean "web"?'),
        ("django = 5", "django: must be a table, not a number"),
        ("shared_dirs = true", "shared_dirs: must be a list of texts in quotes, not true or false"),
        ("health.expect = 200", "health.expect: must be a list of whole numbers, not a number"),
        ("health.expect = [200, 20]", "health.expect[1]: must be a status code such as 200"),
        ("port = 80.0", "port: must be a whole number, not a number with a point"),
        ("port = true", "port: must be a whole number, not true or false"),
        ("batch = -1", "batch: must be a whole number, 0 or more"),
        ("keep_releases = 0", "keep_releases: must be a whole number, 1 or more"),
        ('branch = "--upload-pack=x"', "branch: must be a branch, tag or commit"),
        ('branch = "main\\n"', "branch: must be a branch, tag or commit"),
        ('app_user = "root; id"', "app_user: must be the name of a Unix account"),
        ('sub_directory = "../x"', "sub_directory: must be a path inside the release, without spaces or .."),
        ('shared_dirs = [""]', "shared_dirs[0]: must be a path inside the release, without spaces or .."),
        ('python.extra = ["-rx"]', "python.extra[0]: must be one line that does not start with -"),
        ('environment.set.A = "\\u0000"', "environment.set.A: must be text without NUL characters"),
        ('deploy_to = "../pos"', "deploy_to: must be an absolute path on the servers, without spaces or .."),
        (
            'deploy_to = "-rf"',
            "deploy_to: must be a folder, absolute or (sandbox) beside releases.toml, without spaces",
        ),
        ('repository = "."', "repository: must be a git URL: servers cannot see a folder of this machine"),
        (
            'repository = "https://me:x@git.example.com/pos"',
            "repository: carries a password or token; say it without, and let a deploy key (ssh) or a credential "
            "helper on the servers open it",
        ),
        (
            'branch = "HEAD"',
            'branch: "HEAD" is the commit checked out on this machine; name a branch or tag for servers',
        ),
        ('manager = "supervisor"', 'manager: supervisor is for exactly one host, with transport = "local"'),
        (
            'services.drill = { kind = "worker", command = "x" }',
            "services.drill: is the name of a unit or a log of ours: give the service another one",
        ),
        ('services.b = { kind = "web" }', "services.b: is one web service too many: a stage has at most one"),
        ('services.w = { kind = "worker" }', "services.w: does not say what to run: set application, or command"),
        ('services.web.command = "it\'s"', "services.web.command: has a quote that is not closed"),
        ('shared_dirs = [".venv/x"]', "shared_dirs[0]: .venv is each release's own"),
        ('shared_dirs = ["media", "media/a"]', "shared_dirs[1]: lies in media, which is shared already"),
        ('shared_dirs = ["media", "media"]', "shared_dirs[1]: is listed twice"),
        ('shared_dirs = ["staticfiles"]', "shared_dirs[0]: is [django] static_root, which each release has to itself"),
    ],
)
def test_one_mistake_gives_one_sentence(added: str, says: str) -> None:
    assert wrong(GOOD + added + "\n") == [f"13: stages.production.{says}"]


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        ("[]", ["must list at least one host"]),
        ('[{name="a", address="x"}, {name="a", address="y"}]', ['another host is called "a"']),
        ('[{name="a", address="x"}, {name="b", address="x"}]', ["another host has this address and port"]),
        ('[{name="a"}]', ['needs an address, or transport = "local" for this machine']),
        ('[{name="a", address="x", roles=["db"]}]', ['no host has the role "web"']),
        (
            '[{name="a", transport="local"}, {name="b", transport="local"}]',
            ['only one host may have transport = "local": this machine'],
        ),
        (
            '[{name="a", address="10.0.0.1"}, {name="b", address="10.0.0.2", roles=["web", "balancer"]}]',
            ["web and balancer both want port 80"],
        ),
        (
            '[{name="a", address="10.0.0.1"}, {name="b", address="db.example.com", roles=["postgresql"]}]',
            ["must be an IP address, or internal must: firewall and database let in addresses, not names"],
        ),
        (
            '[{name="a", address="10.0.0.1", roles=["web", "db", "replica"]}]',
            ["a replica of the database on its own host is none"],
        ),
        (
            '[{name="a", address="10.0.0.1"}, {name="b", address="10.0.0.2", roles=["redis"]}, '
            '{name="c", address="10.0.0.3", roles=["redis"]}]',
            ["another host has the role redis"],
        ),
        ('[{name="a", address="x", host_key="ssh-ed25519"}]', [NO_KEY]),
        (f'[{{name="a", address="x", host_key="{KEY.replace("ssh-ed25519", "ssh-rsa")}"}}]', [NO_KEY]),
        ('[{name="a", address="x", host_key="-----BEGIN OPENSSH PRIVATE KEY-----"}]', [NO_KEY]),
    ],
)
def test_hosts_that_cannot_be(hosts: str, says: list[str]) -> None:
    text = re.sub(r"hosts = .*", f"hosts = {hosts}", GOOD)
    assert [line.split(": ", 2)[2] for line in wrong(text)] == says


def test_two_balancers_stand_before_the_same_hosts_with_a_certificate_of_yours() -> None:
    fronts = ", ".join(f'{{name="front{n}", address="10.0.0.{n}", roles=["balancer"]}}' for n in (1, 2))
    text = re.sub(r"hosts = .*", f'hosts = [{{name="a", address="10.0.0.9"}}, {fronts}]', GOOD)
    assert [one.name for one in stage(read(text)).doors] == ["front1", "front2"]
    says = 'tls.certificate: 2 hosts have the role "balancer", and the authority asks only one of them: take "files"'
    assert says in wrong(text + CERTBOT)[0]


def test_a_host_key_as_ssh_keyscan_says_it_is_fine() -> None:
    text = GOOD.replace('"203.0.113.10"', f'"203.0.113.10", host_key = "{KEY}"')
    assert stage(read(text)).primary.host_key == KEY


def test_a_web_service_without_anything_to_serve() -> None:
    says = "does not say what to run: set application, or [django] wsgi, or command"
    assert wrong(GOOD + 'django.wsgi = ""\n') == [f"8: services.web: {says}"]


def test_beat_on_two_hosts_would_do_everything_twice() -> None:
    hosts = '[{name="a", address="x"}, {name="b", address="y"}]'
    text = re.sub(r"hosts = .*", f"hosts = {hosts}", GOOD) + 'services.beat = { kind = "beat", application = "pos" }\n'
    says = 'services.beat: 2 hosts have the role "beat"; exactly one may, or work is done twice'
    assert wrong(text) == [f"13: stages.production.{says}"]


CERTBOT = 'tls.certificate = "certbot"\n'


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (CERTBOT, ["tls.certificate: needs a domain: a certificate is for names"]),
        (
            CERTBOT + 'domain = "pos.test:8443"\ntls.names = ["203.0.113.10"]\n',
            [
                "domain: must be a host name without a port: that is what a certificate is for",
                "tls.names[0]: must be a host name without a port: that is what a certificate is for",
            ],
        ),
        (CERTBOT + 'domain = "pos.test"\ntls.names = ["a.test", "pos.test"]\n', ["tls.names[1]: is listed twice"]),
        (
            CERTBOT + 'domain = "pos.test"\nprovision.nginx = false\n',
            ["tls.certificate: certbot proves the domain through nginx: [provision] nginx must be true"],
        ),
        (
            'domain = "pos.test"\ntls.certificate = "files"\ntls.key = "/etc/ssl/key.pem"\n',
            ["tls.fullchain: must say where it is on the servers"],
        ),
        ('domain = "pos.test"\ntls.names = ["-x"]\n', ["tls.names[0]: must be a host name"]),
    ],
)
def test_a_certificate_that_cannot_be(more: str, says: list[str]) -> None:
    assert [line.split(": ", 1)[1].removeprefix("stages.production.") for line in wrong(GOOD + more)] == says


ADOPT = "provision = { postgresql = false, redis = false, "


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            'provision = { adopt = "/var/www/pos/backend" }\n',
            [
                "provision.adopt_services: must name the units that run from the checkout",
                "provision.adopt: leaves the stores as they are: set postgresql = false in [provision]",
                "provision.adopt: leaves the stores as they are: set redis = false in [provision]",
            ],
        ),
        (
            ADOPT + 'adopt = "/srv", adopt_services = ["a.service"] }\ndeploy_to = "/srv/pos"\n',
            ["provision.adopt: holds deploy_to (/srv/pos): take the checkout itself, or a folder outside of it"],
        ),
        (
            ADOPT + 'adopt = "/srv/pos/current", adopt_services = ["a.service"] }\ndeploy_to = "/srv/pos"\n',
            ["provision.adopt: has a name that deploy_to (/srv/pos) needs for itself: name another deploy_to"],
        ),
        (
            ADOPT + 'adopt = "/srv/../pos/", adopt_services = ["pos.service"], nginx = false }\n',
            [
                "provision.adopt: must be an absolute path without .. or a slash at its end",
                "provision.adopt_services[0]: is the name of a unit of ours: give application another name",
                "provision.adopt: brings users to the release by nginx: set nginx = true in [provision]",
            ],
        ),
        (
            'provision.adopt_services = ["a.service"]\n',
            ["provision.adopt_services: are the units of a checkout: say which one, adopt"],
        ),
        (ADOPT + 'adopt = "/srv/pos", adopt_services = ["a.service"] }\ndeploy_to = "/srv/pos"\n', []),
        (ADOPT + 'adopt = "/srv/pos/app", adopt_services = ["a.service"] }\ndeploy_to = "/srv/pos"\n', []),
    ],
)
def test_a_checkout_that_cannot_be_adopted(more: str, says: list[str]) -> None:
    text = re.sub(r"deploy_to = .*\n", "", GOOD) if "deploy_to" in more else GOOD
    found = wrong(text + more) if says else (read(text + more), [])[1]
    assert sorted(line.split(": ", 1)[1].removeprefix("stages.production.") for line in found) == sorted(says)


ARCHIVE = 'backup.engine = "pgbackrest"\n'


def test_an_archive_of_a_database_that_is_not_there() -> None:
    assert stage(read(GOOD + ARCHIVE)).is_archived
    (line,) = wrong(GOOD + ARCHIVE + "provision.postgresql = false\n")
    assert "backup.engine: " in line
    assert "needs a PostgreSQL that `fab provision` sets up" in line
    hosts = '[{name="a", address="10.0.0.1"}, {name="b", address="10.0.0.2", roles=["postgresql"]}]'
    (line,) = wrong(re.sub(r"hosts = .*", f"hosts = {hosts}", GOOD) + ARCHIVE)
    assert "needs PostgreSQL on the host that migrates (a)" in line


BUCKET = ARCHIVE + 'backup.archive = "s3:https://s3.eu-central-1.example.com:9000/shop/pos/"\n'
OPENED = 'backup.variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]\nbackup.repository = "s3:https://a/b"\n'


def test_an_archive_in_a_bucket() -> None:
    found = stage(read(GOOD + BUCKET + OPENED)).backup.bucket
    assert found == Bucket("s3.eu-central-1.example.com", 9000, "shop", "/pos")
    assert found.region == "eu-central-1"
    whole = Bucket.of("s3:https://storage.example.com/shop")
    assert whole == Bucket("storage.example.com", 443, "shop", "/")
    assert whole.region == "us-east-1"
    assert stage(read(GOOD + ARCHIVE)).backup.bucket is None


@pytest.mark.parametrize("archive", ["s3:http://a/b", "s3:https://a", "s3:https://a/", "s3:https://a/b c", "sftp:a:/b"])
def test_an_archive_that_is_nowhere(archive: str) -> None:
    (line,) = wrong(GOOD + ARCHIVE + f'backup.archive = "{archive}"\n')
    assert 'backup.archive: must be an absolute path without spaces, or "s3:https://HOST/BUCKET/PATH"' in line


def test_an_archive_in_a_bucket_that_a_new_server_could_not_open() -> None:
    found = wrong(GOOD + BUCKET.replace("s3.eu-central-1.example.com", "203.0.113.9"))
    assert sorted(line.partition("backup.archive: ")[2] for line in found) == [
        "must name the storage: pgBackRest looks for no address in a certificate",
        "on S3 is opened by AWS_ACCESS_KEY_ID: name it in variables",
        "on S3 is opened by AWS_SECRET_ACCESS_KEY: name it in variables",
        "on S3 needs a repository as well: what is sent there has the key that opens the archive",
    ]


def test_two_stages_that_would_archive_into_one_place() -> None:
    both = BUCKET + OPENED + GOOD
    other = '\n[stages.other]\nhosts = [{ name = "z", address = "10.9.9.9" }]\nbackup.repository = "/mnt/z"\n'
    (line,) = wrong(both + other)
    assert "backup.archive: is that of stage production: name another one" in line
    read(both + other + 'backup.engine = "dump"\n')


def test_an_authority_would_ask_one_of_two_hosts() -> None:
    hosts = '[{name="a", address="x"}, {name="b", address="y"}]'
    text = re.sub(r"hosts = .*", f"hosts = {hosts}", GOOD) + 'domain = "pos.test"\n'
    (line,) = wrong(text + CERTBOT)
    assert '2 hosts have the role "web", and the authority asks only one of them: take "files"' in line
    read(text + 'tls = { certificate = "files", fullchain = "/a", key = "/b" }\n')


def test_a_sandbox_that_shares_the_certificate_of_production_still_works() -> None:
    text = re.sub(r"hosts = .*", 'hosts = [{ name = "here", transport = "local" }]', GOOD)
    read(text + CERTBOT)
    assert not stage(read(text + 'manager = "supervisor"\n' + ARCHIVE)).is_archived


def test_a_sandbox_lies_beside_the_file_wherever_one_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.sub(r"hosts = .*", 'hosts = [{ name = "here", transport = "local" }]', GOOD)
    text += 'manager = "supervisor"\nrepository = "."\ndeploy_to = ".sandbox"\n'
    (folder / "releases.toml").write_text(text)
    monkeypatch.chdir("/")
    sandbox = stage(load(folder / "releases.toml"))
    assert (sandbox.repository, sandbox.deploy_to) == (str(folder), f"{folder}/.sandbox")


@pytest.mark.parametrize(
    ("place", "says"),
    [(".", "would put releases among"), ("..", "would put releases among"), ("~nobody-here/x", "without spaces or ..")],
)
def test_a_sandbox_never_covers_the_project(place: str, says: str) -> None:
    text = re.sub(r"hosts = .*", 'hosts = [{ name = "here", transport = "local" }]', GOOD)
    (line,) = wrong(text + f'repository = "."\ndeploy_to = "{place}"\n')
    assert says in line


def test_a_sandbox_below_a_folder_with_spaces_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "My Projects").mkdir()
    monkeypatch.chdir(folder / "My Projects")
    text = re.sub(r"hosts = .*", 'hosts = [{ name = "here", transport = "local" }]', GOOD)
    (line,) = wrong(text + 'repository = "."\ndeploy_to = ".sandbox"\n')
    assert line == (
        f"14: stages.production.deploy_to: becomes {folder}/My Projects/.sandbox: name a folder, without spaces or .."
    )


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("0.0.0.0/0", "is everybody"),
        ("::/0", "is everybody"),
        ("10.0.0.1/8", "say 10.0.0.0/8, or the address alone"),
        ("300.0.0.1", "must be an IP address or network"),
        ("proxy.example.com", "must be an IP address or network"),
    ],
)
def test_a_proxy_to_be_believed_is_named_exactly(network: str, says: str) -> None:
    (line,) = wrong(f'{GOOD}nginx.trusted_proxies = ["203.0.113.7", "2001:db8::/32", "{network}"]\n')
    assert line.startswith("13: stages.production.nginx.trusted_proxies[2]: ")
    assert says in line


CARRIED = [
    ("repository", "https://hunter2@git.example.com/pos.git", "deploy key"),
    ("repository", "HTTPS://me:hunter2@git.example.com/pos.git", "deploy key"),
    ("repository", "ssh://git:hunter2@git.example.com/pos.git", "deploy key"),
    ("repository", "me:hunter2@git.example.com:pos.git", "deploy key"),
    ("repository", "https://git.example.com/pos.git?private_token=hunter2", "deploy key"),
    ("repository", "https://me:hunter2/with@slash@git.example.com/pos.git", "deploy key"),
    ("backup.repository", "rest:https://me:hunter2@backup.example.com/pos", "RESTIC_REST_PASSWORD"),
    ("backup.repository", "rest:http://hunter2@backup.example.com/", "RESTIC_REST_PASSWORD"),
    ("backup.repository", "s3:https://AK:hunter2@s3.example.com/pos", "AWS_SECRET_ACCESS_KEY"),
    ("backup.repository", "sftp://me:hunter2@203.0.113.9//srv/pos", "root"),
    ("backup.repository", "sftp:me:hunter2@203.0.113.9:/srv/pos", "root"),
    ("backup.archive", "s3:https://AK:hunter2@s3.example.com/pos", "AWS_SECRET_ACCESS_KEY"),
    ("environment.set.DATABASE_URL", "postgres://app:hunter2@db/pos", "fab env.set DATABASE_URL"),
    ("environment.set.CACHE", "redis://:hunter2@db/0", "fab env.set CACHE"),
    ("environment.source", "curl https://me:hunter2@vault.example.com/", "variable"),
    ("python.extra", ["git+https://hunter2@git.example.com/x.git"], ".netrc"),
    ("hooks.after_switch", ["curl https://hooks.example.com/?token=hunter2"], "environment file"),
    ("tls.server", "https://me:hunter2@ca.example.com/directory", "without"),
    ("notify.webhook_variable", "https://me:hunter2@chat.example.com/hook", "export"),
]


@pytest.mark.parametrize(("key", "value", "instead"), CARRIED, ids=[f"{key} {value}" for key, value, _ in CARRIED])
def test_a_password_in_an_address_is_refused_with_what_to_do_and_never_repeated(
    key: str, value: str | list[str], instead: str
) -> None:
    (line,) = wrong(f"{GOOD}{key} = {json.dumps(value)}\n")
    assert re.match(rf"13: stages\.production\.{re.escape(key)}(\[0\])?: ", line), line
    assert instead in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("repository", "git@git.example.com:pos.git"),
        ("repository", "ssh://git@git.example.com:2222/pos.git"),
        ("repository", "https://git.example.com:8443/a@b/pos.git"),
        ("backup.repository", "sftp:backup@203.0.113.9:/srv/pos"),
        ("backup.repository", "sftp://backup@203.0.113.9:2222//srv/pos"),
        ("backup.repository", "rest:https://backup.example.com:8000/pos"),
        ("environment.set.URL", "https://[2001:db8::1]:80/a@b"),
        ("environment.set.FROM", "Shop <shop@example.com>"),
        ("python.extra", ["pos @ git+https://git.example.com/x.git@v1"]),
        ("hooks.after_switch", ["curl https://me:$TOKEN@hooks.example.com/"]),
    ],
)
def test_an_address_without_a_password_is_not_taken_for_one(key: str, value: str | list[str]) -> None:
    for name in reversed(key.split(".")):
        value = {name: value}  # type: ignore[assignment]
    assert list(passwords(value)) == []


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    text = (
        GOOD + 'app_user = "hunter2 !"\nport = "hunter2"\nmanager = "hunter2"\nrepository = "https://a:hunter2@x/y z"\n'
    )
    assert "hunter2" not in "".join(wrong(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = \n", "1: not TOML: invalid value"),
        ("\n\n[x\n", "3: not TOML: expected ']' at the end of a table declaration"),
        ("a = 1\na = 2\n", "2: not TOML: cannot overwrite a value"),
        ('\na = """x', "2: not TOML: unterminated string"),
        ("", "1: stages: missing: at least one stage, as [stages.production]"),
        ("stages = 5", "1: stages: missing: at least one stage, as [stages.production]"),
        ("[stages]\nx = 5", "2: stages.x: must be a table, as [stages.production]"),
        ('default_stage = ["x"]\n' + GOOD, "1: default_stage: must be one of the stages: production"),
    ],
)
def test_a_file_that_is_not_one(text: str, says: str) -> None:
    assert wrong(text) == [says]


def test_no_file_says_how_to_get_one() -> None:
    with pytest.raises(UsageError) as caught:
        load(Path("releases.toml"))
    assert caught.value.message == "releases.toml is not here."
    assert "fab init" in caught.value.hint


def test_a_file_in_another_encoding_says_where() -> None:
    Path("releases.toml").write_bytes(b'# ok\napplication = "caf\xe9"\n')
    with pytest.raises(UsageError, match=r"releases.toml:2: not UTF-8 text"):
        load(Path("releases.toml"))


def test_a_folder_instead_of_a_file_is_no_traceback() -> None:
    Path("releases.toml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        load(Path("releases.toml"))


def test_a_mistyped_stage_is_named() -> None:
    config = read(GOOD)
    assert stage(config, "production") is stage(config)
    with pytest.raises(UsageError) as caught:
        stage(config, "prodution")
    assert caught.value.hint == 'Did you mean "production"?'


def test_of_several_stages_none_is_guessed() -> None:
    config = read(GOOD + '[stages.staging]\nhosts = [{ name = "s", address = "203.0.113.11" }]\n')
    with pytest.raises(UsageError, match="Which stage"):
        stage(config)


def test_lines_are_known_inside_inline_tables_and_rows_of_tables() -> None:
    text = '''\
a.b = """
two = 2
""" # c = 3
"d.e" = { f = [
  { g = 1 },
  { 'h' = "]" }, # ]
] }
[[t]]
x = 1
[[t.u]]
[[t.u]]
y = 1.5
[[t]]
[t.v]
z = 2020-01-01 10:00:00
'''
    known = lines(text)
    assert {path: line for path, line in known.items() if isinstance(path[-1], str)} == {
        ("a",): 1, ("a", "b"): 1, ("d.e",): 4, ("d.e", "f"): 4, ("d.e", "f", 0, "g"): 5, ("d.e", "f", 1, "h"): 6,
        ("t",): 8, ("t", 0, "x"): 9, ("t", 0, "u"): 10, ("t", 0, "u", 1, "y"): 12, ("t", 1, "v"): 14,
        ("t", 1, "v", "z"): 15,
    }  # fmt: skip
    assert (known["t", 0, "u", 1], known["t", 1]) == (11, 13)


VALUES = some.sampled_from(
    [
        "x",
        "web",
        "5s",
        "",
        0,
        1,
        True,
        1.5,
        None,
        [],
        ["x"],
        [1],
        [{"name": "x"}],
        {},
        {"x": "y"},
        {"x": 1},
        {"kind": "web"},
    ]
)
KEYS = some.sampled_from(sorted({*fields_of(Stage), *fields_of(Service), *fields_of(Host), "nonsense"}))


@given(
    some.dictionaries(KEYS, VALUES, max_size=3),
    some.dictionaries(KEYS, VALUES, max_size=2),
    some.sampled_from(["", "hosts", "services", "health", "environment"]),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_without_pydantic_is_what_pydantic_reads(
    top: dict[str, object], below: dict[str, object], where: str
) -> None:
    table = tomllib.loads(GOOD)
    merged = {**table, **table["stages"]["production"], "name": "production", **top}
    del merged["stages"]
    if where == "hosts":
        merged["hosts"] = [{"name": "web1", **below}]
    elif where:
        merged[where] = {"web": {"kind": "web", **below}} if where == "services" else below
    try:
        ours = fitted(Stage, merged)
    except Unfit:
        ours = None
    try:
        theirs = adapter().validate_json(json.dumps(merged), strict=True)
    except ValidationError:
        theirs = None
    assert ours == theirs
    assert ours is None or ours.fingerprint == theirs.fingerprint


def test_a_file_that_is_right_is_read_without_pydantic() -> None:
    """Which takes as long to import as connecting to a server does."""
    read = "from tasks.config.load import load; load(Path('releases.toml'))"
    code = f"import sys; from pathlib import Path; {read}; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_default_is_a_value_one_could_write() -> None:
    for _, kind in tables():
        for one in fields(kind):
            if isinstance(one.default, str | int | tuple):
                default = list(one.default) if isinstance(one.default, tuple) else one.default
                assert list(mismatches(fields_of(kind)[one.name], default)) == [], one.name


leaf = some.one_of(
    some.text(alphabet="ab-./ \"'\n\\\0é[]{}#=", max_size=8), some.integers(), some.booleans(),
    some.sampled_from(["web", "ssh", "local", "5s", "/x", "."]),
)  # fmt: skip
known_keys = some.sampled_from(sorted({name for _, kind in tables() for name in fields_of(kind)} | {"stages"}))
value = some.recursive(
    leaf,
    lambda deeper: some.one_of(
        some.lists(deeper, max_size=3), some.dictionaries(known_keys | some.text(max_size=3), deeper, max_size=4)
    ),
    max_leaves=12,
)


def toml(value: Any) -> str:
    """Any value, written inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{text(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",\n".join(map(toml, value)) + "]"
    return text(value) if isinstance(value, str) else str(value).lower()


def text(value: str) -> str:
    """JSON's escapes are TOML's, but for characters beyond 16 bits, which need none, and for delete."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.dictionaries(known_keys, value, max_size=6), some.dictionaries(known_keys, value, max_size=6))
def test_whatever_is_written_there_is_an_answer_and_no_traceback(top: dict[str, Any], own: dict[str, Any]) -> None:
    top.pop("stages", None)
    body = "".join(f"{key} = {toml(one)}\n" for key, one in top.items())
    body += "[stages.x]\n" + "".join(f"{key} = {toml(one)}\n" for key, one in own.items())
    answered(body)


def answered(body: str) -> None:
    """Read it, or be told what is wrong with every part of it, in order."""
    says = ""
    try:
        read(body)
    except UsageError as error:
        says = error.message
    assert "not TOML" not in says
    numbers = [int(one) for one in re.findall(r"^releases\.toml:(\d+): ", says, re.MULTILINE)]
    assert len(numbers) == len(says.splitlines())
    assert numbers == sorted(numbers)
    assert max(numbers, default=1) <= body.count("\n") + 1


def headed(table: dict[str, Any], path: str = "") -> str:
    """The same values below [headings] and [[headings]], where TOML allows that."""
    here, later = "", ""
    for key, one in table.items():
        name = f"{path}.{text(key)}".lstrip(".")
        if isinstance(one, dict):
            later += f"[{name}] # [no]\n{headed(one, name)}"
        elif isinstance(one, list) and one and all(isinstance(row, dict) for row in one):
            later += "".join(f"[[ {name} ]]\n{headed(row, name)}" for row in one)
        else:
            here += f"{text(key)} = {toml(one)}\n"
    return here + later


def paths(found: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return {path, *(deeper for key, one in items for deeper in paths(one, (*path, key)))}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.dictionaries(known_keys | some.text(max_size=3), value, max_size=5))
def test_every_key_of_every_file_has_its_line(table: dict[str, Any]) -> None:
    inline = "".join(f"{text(key)} = {toml(one)}\n" for key, one in table.items())
    for written in (inline, headed(table)):
        assert set(lines(written)) == paths(tomllib.loads(written)) - {()}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.text(alphabet="[]{}=.,\"'\n#\\ ab1-", max_size=40))
def test_no_text_at_all_gives_a_traceback(anything: str) -> None:
    with pytest.raises(UsageError):
        read(anything)


@pytest.mark.parametrize(
    "deep", ["a = " + "[" * 90_000, "stages.x.a = " + "[" * 300 + "]" * 300, "a = 0x" + "f" * 9000]
)
def test_nesting_and_numbers_without_end_are_refused(deep: str) -> None:
    with pytest.raises(UsageError):
        read(deep)


def test_the_reference_and_the_schema_are_what_the_code_says() -> None:
    assert (ROOT / REFERENCE).read_text() == reference(), "run: python -m tasks.config.reference --write"
    assert (ROOT / JSON_SCHEMA).read_text() == json_schema(), "run: python -m tasks.config.reference --write"


def test_every_key_is_explained() -> None:
    page = reference()
    for name in {name for _, kind in tables() for name in fields_of(kind)}:
        assert f"| `{name}` |" in page
        assert name in explain(name)
    assert "SSH port" in explain("hosts.port")
    assert "did you mean" in explain("shared_dir")


def test_an_editor_accepts_the_file_and_marks_a_mistake(folder: Path) -> None:
    schema = str(ROOT / JSON_SCHEMA)
    check = [sys.executable, "-m", "check_jsonschema", "--schemafile", schema]
    subprocess.run([*check, str(ROOT / "releases.toml")], check=True, capture_output=True)
    for old, new in (('"pos"', '"p os"'), ("wsgi =", "wsgy ="), ('"web1"', "1")):
        (folder / "bad.toml").write_text(GOOD.replace(old, new))
        assert subprocess.run([*check, "bad.toml"], check=False, capture_output=True).returncode == 1, old


def test_a_forgotten_page_fails_the_check(folder: Path) -> None:
    assert main(["--check"], folder) == 1
    assert (main(["--write"], folder), main(["--check"], folder)) == (0, 0)


SENDS = '\n[backup]\nrepository = "sftp:backup@203.0.113.9:/srv/pos"\n'
DRILL = '\n[stages.drill]\nhosts = [{ name = "drill", address = "203.0.113.11" }]\n'


def test_two_stages_whose_backups_mix() -> None:
    """Nobody could say which one's is the newest; the drill's would be what production is made from."""
    base = GOOD.replace("\n[stages.production]", SENDS + '\n[services.beat]\nkind = "beat"\n[stages.production]')
    base = base.replace('kind = "beat"', 'kind = "beat"\napplication = "pos"') + DRILL
    assert wrong(base) == [
        '12: backup.repository: is that of stage production: name another one, or "" in [stages.drill.backup]'
    ]
    own = base + '\n[stages.drill.backup]\nrepository = ""\n'
    assert set(read(own).stages["drill"].services) == {"web", "beat"}


def test_a_drill_that_does_what_production_does_at_its_hours() -> None:
    recover = '[stages.drill.recover]\nvariables = { EMAIL_BACKEND = "console" }\n'
    config = read(GOOD + '\n[services.beat]\nkind = "beat"\napplication = "pos"\n' + DRILL + recover)
    assert set(config.stages["drill"].services) == {"web"}
    assert set(config.stages["production"].services) == {"web", "beat"}
    assert "belongs to one stage" in wrong(GOOD + DRILL + '\n[recover]\nvariables = { A = "b" }\n')[0]
