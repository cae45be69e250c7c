"""What is broken on a real server is found, named and told how to repair; nothing that is broken hides the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.servers import Server, faults
from tests.servers.shop import Shop

from .conftest import await_page

pytestmark = pytest.mark.server

SECRETS = ("canary", "pos:pos@")
"""Parts of SECRET_KEY and of DATABASE_URL."""
CERTIFICATE = """
import datetime, pathlib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
now = datetime.datetime.now(datetime.timezone.utc)
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "{name}")])
key = ec.generate_private_key(ec.SECP256R1())
made = x509.CertificateBuilder(
    name, name, key.public_key(), 7, now - datetime.timedelta(90), now + datetime.timedelta({days})
).add_extension(x509.SubjectAlternativeName([x509.DNSName("{name}")]), False).sign(key, hashes.SHA256())
"""
SITE = """
server {
  listen 8443 ssl; server_name pos.test;
  ssl_certificate /etc/nginx/test.pem; ssl_certificate_key /etc/nginx/test.key;
}
"""

Found = dict[str, list[tuple[str, str]]]
"""What -> (state, "value -> hint") of each of its findings."""


@pytest.fixture(scope="module")
def well(shop: Shop) -> Shop:
    """A server as it should be: data on loopback with checksums, a backup of today."""
    shop.server.run(
        "systemctl stop pos.service 'pos-*' postgresql@15-main redis-server && "
        "pg_conftool 15 main set listen_addresses localhost && "
        "su postgres -c '/usr/lib/postgresql/15/bin/pg_checksums --enable -D /var/lib/postgresql/15/main' && "
        "sed -i 's/^bind .*/bind 127.0.0.1/' /etc/redis/redis.conf && "
        "systemctl start postgresql@15-main redis-server && "
        f"sed -i s/{shop.server.address}/127.0.0.1/ /srv/pos/shared/.env.production && "
        "install -d -o deploy -m 700 /srv/pos/backups /srv/pos/backups/database && "
        """printf '{"taken_at": "%s"}' "$(date -u +%FT%TZ)" >/srv/pos/backups/database/20260101-000000.json && """
        "chown deploy: /srv/pos/backups/database/20260101-000000.json && systemctl start pos.service"
    )
    shop.install()
    await_page(shop)
    both = f"systemctl is-active -q pos-worker@{shop.current()} && systemctl is-active -q pos-beat"
    shop.server.run(f"until {both}; do sleep 0.2; done", timeout=90)
    return shop


def checked(shop: Shop, code: int | None = 4, *words: str) -> Found:
    """What `fab check` found; in time, without a traceback and without a secret."""
    done = shop.fab("check", "--json", *words, check=code, timeout=60)
    assert "Traceback" not in done.stderr
    assert not [one for one in SECRETS if one in done.stdout + done.stderr]
    told = json.loads(done.stdout)
    assert told["ready"] == (code != 4)
    return _by_name(told["hosts"]["app1"])


def _by_name(findings: list[dict[str, str]]) -> Found:
    found: Found = {}
    for one in findings:
        assert set(one) == {"what", "state", "value", "hint"}
        assert bool(one["hint"]) == (one["state"] in ("look", "bad")), one
        found.setdefault(one["what"], []).append((one["state"], f"{one['value']} -> {one['hint']}"))
    return found


def has(found: Found, what: str, state: str, *says: str) -> None:
    """One finding of that name and state says all of this."""
    for one, text in found.get(what, []):
        if one == state and all(re.search(part, text) for part in says):
            return
    pytest.fail(f"no {state} {what} that says {says} in {found}")


def worst(found: Found) -> dict[str, str]:
    order = ("bad", "look", "skipped", "ok")
    return {what: min((state for state, _ in all_of), key=order.index) for what, all_of in found.items()}


@contextmanager
def broken(server: Server, command: str, mend: str) -> Iterator[None]:
    try:
        server.run(command)
        yield
    finally:
        server.run(mend)


@contextmanager
def moved(server: Server, *paths: str) -> Iterator[None]:
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(broken(server, f"mv {path} {path}.away", f"rm -rf {path}; mv {path}.away {path}"))
        yield


# -- nothing is wrong


def test_a_server_that_is_well_is_ready_and_stays_as_it_was(well: Shop) -> None:
    look = "find /srv/pos /tmp /var/tmp /home/deploy -newer /run/mark -user deploy"
    well.server.run("touch /run/mark")
    found = checked(well, 0)
    assert well.server.run(look).stdout == "", "it changes nothing"
    wrong = {what: state for what, state in worst(found).items() if state != "ok"}
    unprovisioned = {"backup-timer": "look", "backup-files": "look", "repository": "skipped"}
    assert wrong == {**unprovisioned, "drill": "look", "off-site": "look", "door": "look"}, found
    has(found, "backup-files", "look", "in no backup yet", "fab provision")
    has(found, "backup-timer", "look", "no timer takes backups", "fab provision")
    has(found, "drill", "look", "none was ever restored", "fab drill")
    has(found, "off-site", "look", "on this server only", "repository")
    has(found, "backup", "ok", r"the newest is \d+ s old, not proven")
    has(found, "door", "look", "pos.test does not answer", "DNS")
    has(found, "ssh", "ok", f"deploy@{well.server.address}:22")
    has(found, "host-key", "ok", "SHA256:", "releases.toml")
    has(found, "database", "ok", "PostgreSQL 15", "MB", "of 100 connections", "migrated")
    has(found, "redis", "ok", "Redis 7", "REDIS_URL")
    has(found, "services", "ok", "web, worker, beat run")
    has(found, "sudo", "ok", "one program that checks its own words")
    plain = well.fab("check").stdout
    assert "app1 ok services: web, worker, beat run\n" in plain
    assert plain.endswith("ready to deploy; 5 things to look at\n")


# -- its data


def test_a_database_and_a_redis_that_hang_do_not_hang_the_check(well: Shop) -> None:
    with faults.frozen(well.server, "postgresql@15-main"), faults.frozen(well.server, "redis-server"):
        found = checked(well)
    has(found, "database", "bad", "timeout|no answer within", "postgresql")
    has(found, "redis", "bad", "REDIS_URL: no answer within", "redis-server")
    assert {what for what, state in worst(found).items() if state == "bad"} == {"database", "redis"}, found


def test_a_database_and_a_redis_that_are_off_are_named(well: Shop) -> None:
    with faults.stopped(well.server, "postgresql@15-main"), faults.stopped(well.server, "redis-server"):
        found = checked(well)
    has(found, "database", "bad", "refused")
    has(found, "redis", "bad", "REDIS_URL: Connection refused")


def test_variables_that_do_not_open_the_database_are_found_before_a_deploy_does(well: Shop) -> None:
    file = "/srv/pos/shared/.env.production"
    change = "s,postgres://pos:pos@,postgres://pos:n0t-the-canary-word@,; s,redis://,redis://:n0t-the-canary-word@,"
    with broken(well.server, f"cp -a {file} /run/kept && sed -i '{change}' {file}", f"cp -a /run/kept {file}"):
        found = checked(well)
    has(found, "database", "bad", "password authentication failed")
    has(found, "redis", "bad", "REDIS_URL: .*(WRONGPASS|AUTH)")


def test_a_release_ahead_of_its_schema_and_a_broker_that_drops_tasks_are_worth_a_look(well: Shop) -> None:
    def psql(text: str) -> str:
        return f"""su postgres -c "psql -q pos -c \\"{text}\\"" """

    both = "app = 'sales' and name like '0001%'"
    forget = psql(
        f"create table kept as select * from django_migrations where {both}; delete from django_migrations where {both}"
    )
    remember = psql("insert into django_migrations select * from kept; drop table kept")
    policy = "redis-cli config set maxmemory {} && redis-cli config set maxmemory-policy {}"
    with (
        broken(well.server, forget, remember),
        broken(well.server, policy.format("200mb", "allkeys-lru"), policy.format("0", "noeviction")),
    ):
        found = checked(well, 0)
    has(found, "database", "look", "sales.0001", "not applied", "fab manage migrate")
    has(found, "redis", "look", "dropped when memory is full", "noeviction")


# -- its machine


def test_a_disk_without_room_or_without_inodes_is_found(well: Shop) -> None:
    with faults.full_disk(well.server, "/srv/pos", free_kib=100_000, free_inodes=500):
        found = checked(well)
    has(found, "disk", "bad", "free on /srv/pos, less than 500MB", "fab cleanup")
    has(found, "inodes", "bad", "free on /srv/pos", "du --inodes")
    await_page(well)


def test_programs_that_are_missing_are_named_with_their_package(well: Shop) -> None:
    with (
        broken(well.server, "chmod -x /usr/local/bin/uv", "chmod +x /usr/local/bin/uv"),
        moved(well.server, "/usr/bin/git", "/usr/lib/python3.11/ensurepip"),
    ):
        found = checked(well)
    has(found, "tools", "bad", "git is not installed", "apt-get install git")
    has(found, "python", "bad", "without its venv module", "apt-get install python3-venv")
    assert worst(found)["git"] == "bad"


def test_a_python_or_a_package_that_is_asked_for_and_not_there_is_named(well: Shop) -> None:
    try:
        well.configure('[python]\nversion = "3.13"\n\n[provision]\npackages = ["gettext-of-tests", "procps"]\n')
        found = checked(well)
    finally:
        well.configure()
    has(found, "python", "bad", "3.13")
    has(found, "packages", "look", "not installed: gettext-of-tests -> apt-get install gettext-of-tests")


def test_units_that_somebody_edited_removed_or_did_not_reload_are_found(well: Shop) -> None:
    units, site = "/etc/systemd/system", "/etc/nginx/sites-available/pos"
    kept = f"cp -a {units}/pos*.service {site} /run/units/"
    with broken(
        well.server,
        f"mkdir -p /run/units && {kept} && rm {units}/pos-web@.service && echo '# by hand' >>{units}/pos-beat.service "
        f"&& echo '# by hand' >>{site}",
        f"cp -a /run/units/pos*.service {units}/ && cp -a /run/units/pos {site} && systemctl daemon-reload",
    ):
        found = checked(well)
    has(found, "units", "bad", "not installed: pos-web@.service", "fab provision")
    has(found, "units", "look", f"not as releases.toml says: pos-beat.service, {site}", "--check")
    has(found, "units", "look", "pos-beat.service", "daemon-reload")


def test_a_rule_of_sudo_that_is_missing_or_too_broad_is_found(well: Shop) -> None:
    rules = "/etc/sudoers.d/pos"
    with broken(
        well.server,
        f"cp -a {rules} /run/rules && sed -i '/pos-systemctl/d' {rules} && "
        "echo 'deploy ALL=(ALL) NOPASSWD: /usr/bin/apt-get install *' >/etc/sudoers.d/more",
        f"cp -a /run/rules {rules} && rm /etc/sudoers.d/more",
    ):
        found = checked(well)
        well.server.run("echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/more")
        everything = checked(well, 0)
    has(found, "sudo", "bad", "refuses /usr/local/lib/fab-releases/pos-systemctl", "/etc/sudoers.d/pos")
    has(found, "sudo", "look", "apt-get install \\*", "visudo")
    has(everything, "sudo", "look", "more than a deploy needs: ALL")


def test_a_port_that_is_open_to_the_world_is_found_with_who_listens(well: Shop) -> None:
    listen = "systemd-run -q --uid=deploy --unit={0} python3 -m http.server --bind 0.0.0.0 --directory /var/empty {0}"
    with broken(
        well.server,
        f"mkdir -p /var/empty && {listen.format(8000)} && {listen.format(9999)} && "
        "until ss -Htln | grep -q :8000 && ss -Htln | grep -q :9999; do sleep 0.1; done",
        "systemctl stop 8000 9999",
    ):
        found = checked(well)
    has(found, "ports", "bad", r"8000 \(python3\) is open to the world", "127.0.0.1")
    has(found, "ports", "look", r"9999 \(python3\) is open to the world")


# -- its application


def test_services_that_stopped_died_or_failed_are_named(well: Shop) -> None:
    live = well.current()
    with broken(
        well.server,
        f"systemctl stop pos-beat && systemctl kill -s KILL pos-worker@{live} && "
        "systemd-run -q --unit=unlucky false; sleep 1; "
        f"until systemctl is-active -q pos-worker@{live}; do sleep 0.2; done",
        f"systemctl reset-failed unlucky; systemctl restart pos-beat pos-worker@{live}",
    ):
        found = checked(well)
    has(found, "services", "bad", "beat is inactive", "fab logs --service beat; fab start")
    has(found, "services", "look", "worker was started again once", "fab logs --service worker")
    has(found, "services", "look", "unlucky.service has failed", "systemctl status")


def test_variables_that_nobody_or_everybody_can_read_are_found(well: Shop) -> None:
    file = "/srv/pos/shared/.env.production"
    mend = f"chown deploy:env-app {file}; chmod 640 {file}"
    with broken(well.server, f"chmod 644 {file}", mend):
        has(checked(well, 0), "files", "look", "everybody on the server may read", f"chmod 640 {file}")
    with broken(well.server, f"chown deploy:deploy {file}", mend):
        has(checked(well), "files", "bad", "app, who runs the services, may not read")
    with moved(well.server, file):
        found = checked(well)
    has(found, "files", "bad", f"{file} does not exist", "fab env.push")
    has(found, "database", "look", "Cannot read the environment file")


def test_what_keeps_a_deploy_from_starting_is_named(well: Shop) -> None:
    holder = "flock /srv/pos/.releases/lock sh -c 'echo anna: deploy >/srv/pos/.releases/lock; sleep 60'"
    with broken(
        well.server,
        f"systemd-run -q --uid=deploy --unit=holder {holder} && mkdir -p /srv/pos/staging/20260101-000000-0000000 && "
        "echo 'the auditors are here' >/srv/pos/.releases/freeze && touch /srv/pos/.releases/maintenance && "
        "chown root /srv/pos && chmod 755 /srv/pos && "
        "until grep -q anna /srv/pos/.releases/lock; do sleep 0.1; done",
        "systemctl stop holder; chown deploy /srv/pos; "
        "rm -r /srv/pos/.releases/freeze /srv/pos/.releases/maintenance /srv/pos/staging/20260101-000000-0000000",
    ):
        found = checked(well)
    has(found, "lock", "bad", "locked by anna: deploy", "--wait")
    has(found, "freeze", "bad", "the auditors are here", "fab unfreeze")
    has(found, "maintenance", "look", "fab maintenance off")
    has(found, "leftover", "look", "interrupted run", "fab repair")
    has(found, "folder", "bad", "deploy may not write in /srv/pos", "chown")


def test_a_branch_or_a_repository_that_cannot_be_read_is_found(well: Shop) -> None:
    has(checked(well, 4, "--ref", "no-such-branch"), "git", "bad", "no branch or tag no-such-branch")
    with moved(well.server, "/srv/git/pos.git"):
        has(checked(well), "git", "bad", "cannot read /srv/git/pos.git", "git ls-remote")


@pytest.mark.parametrize(
    ("name", "days", "state", "says"),
    [
        ("pos.test", 60, "ok", ["ends 20"]),
        ("pos.test", 10, "look", ["in 9 days"]),
        ("other.test", -1, "bad", ["ended 20", "is not for pos.test"]),
    ],
)
def test_a_certificate_that_ends_has_ended_or_is_somebody_elses_is_found(
    well: Shop, name: str, days: int, state: str, says: list[str]
) -> None:
    server = well.server
    made: dict[str, bytes] = {}
    exec(
        CERTIFICATE.format(name=name, days=days)
        + "made_pem = made.public_bytes(serialization.Encoding.PEM)\n"
        + "key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,"
        + " serialization.NoEncryption())\n",
        made,
    )
    server.put("/etc/nginx/test.pem", made["made_pem"].decode())
    server.put("/etc/nginx/test.key", made["key_pem"].decode(), mode=0o600)
    server.put("/etc/nginx/conf.d/tests.conf", SITE)
    toml = well.folder / "releases.toml"
    with broken(
        server, "nginx -q -t && systemctl reload nginx", "rm /etc/nginx/conf.d/tests.conf && systemctl reload nginx"
    ):
        try:
            toml.write_text(toml.read_text().replace("[health]", '[health]\nfront = "https://127.0.0.1:8443"'))
            found = checked(well, 4 if state == "bad" else 0)
            for one in says:
                has(found, "certificate", state, one)
        finally:
            well.configure()


def test_https_that_nobody_speaks_is_found(well: Shop) -> None:
    toml = well.folder / "releases.toml"
    try:
        toml.write_text(toml.read_text().replace("[health]", '[health]\nfront = "https://127.0.0.1:8443"'))
        has(checked(well), "certificate", "bad", "nothing speaks TLS", "nginx")
    finally:
        well.configure()


# -- the check itself


def test_a_question_that_hangs_or_fails_costs_no_other_answer(well: Shop) -> None:
    slow = "#!/bin/sh\nexec sleep 100\n"
    with faults.shim(well.server, "ss", nth=None) as shim:
        well.server.put("/usr/local/bin/df", slow, 0o755)
        try:
            found = checked(well, 0)
        finally:
            well.server.run("rm /usr/local/bin/df")
        assert shim.calls == 1
    has(found, "disk", "look", "no answer within 8 s")
    has(found, "survey", "look", "no answer")
    has(found, "ports", "look", "fault injected: ss")
    assert worst(found)["database"] == "ok"
    assert worst(found)["sudo"] == "ok"
    assert well.server.run("pgrep -x sleep || true").stdout == "", "what hung was ended"


def test_a_host_that_is_away_is_one_line_and_the_others_are_shown(well: Shop) -> None:
    toml = well.folder / "releases.toml"
    first = re.search(r"^  \{ name = .*\n", toml.read_text(), re.MULTILINE)
    assert first
    web = re.sub(r"roles = \[[^]]*\]", 'roles = ["web"]', first[0])
    away = re.sub(r"port = \d+", "port = 9", web.replace("app1", "app2"))
    stranger = re.sub(r'host_key = "[^"]*"', f'host_key = "{_other_key()}"', web.replace("app1", "app3"))
    with faults.slow_link(well.server, 0) as (address, port):
        stranger = re.sub(r'address = "[^"]*", port = \d+', f'address = "{address}", port = {port}', stranger)
        try:
            toml.write_text(toml.read_text().replace(first[0], first[0] + away + stranger))
            done = well.fab("check", "--json", check=4)
            plain = well.fab("check", check=4).stdout
        finally:
            well.configure()
    told = {host: _by_name(findings) for host, findings in json.loads(done.stdout)["hosts"].items()}
    assert list(told) == ["app1", "app2", "app3"]
    has(told["app1"], "database", "ok", "PostgreSQL")
    assert list(told["app2"]) == ["ssh"]
    has(told["app2"], "ssh", "bad", "no connection")
    has(told["app3"], "ssh", "bad", "host key", "SHA256:")
    assert "app2 bad ssh: no connection" in plain
    assert "not ready to deploy: 2 things bad" in plain


def _other_key() -> str:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    made = ed25519.Ed25519PrivateKey.generate().public_key()
    return made.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_before_the_first_deploy_what_needs_a_release_is_skipped_with_its_reason(well: Shop) -> None:
    toml = well.folder / "releases.toml"
    try:
        toml.write_text(toml.read_text().replace('deploy_to = "/srv/pos"', 'deploy_to = "/srv/new"'))
        well.server.run("install -d -o deploy -g app /srv/new")
        found = checked(well)
    finally:
        well.configure()
        well.server.run("rm -r /srv/new")
    skipped = {what for what, state in worst(found).items() if state == "skipped"}
    assert skipped == {"release", "services", "environment", "database", "redis", "backup", "repository"}
    has(found, "database", "skipped", "nothing is live here yet")
    has(found, "files", "bad", "/srv/new/shared/.env.production does not exist")
    has(found, "git", "ok", "main is")
