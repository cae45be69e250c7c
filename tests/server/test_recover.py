"""The server is gone. What was sent away, one key and one command make it again."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.runbook import HOW_TO, follow, typed
from tests.servers import Server
from tests.servers.server import client_key
from tests.servers.shop import REQUIREMENTS, Shop, fill

pytestmark = pytest.mark.server
BEFORE, WHEN, DRILL = typed(HOW_TO / "rebuild-a-lost-server.md")
EVERYTHING = "select json_agg(t order by t.id) from {} t"

HELD = ("sales_sale", "inventory_product", "accounts_user", "django_migrations")
ADA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4H3mR8JQq0l1gqkYp1yqBv1t3m4m2r3n9j8h7g6f5d ada@laptop"
OF_THE_DATABASE = """
create role reporting login password 'monthly';
alter role reporting set statement_timeout = '5s';
grant connect on database pos to reporting;
alter database pos connection limit 90;
alter database pos set idle_session_timeout = '1h';
comment on database pos is 'the till';
\\connect pos
grant usage on schema public to reporting;
grant select on sales_sale to reporting;
"""
ITSELF = """
select datconnlimit, shobj_description(d.oid, 'pg_database'), setconfig, pg_get_userbyid(datdba),
    (select string_agg(one::text, ' ' order by one::text) from unnest(datacl) one)
from pg_database d join pg_db_role_setting on setdatabase = d.oid where datname = 'pos';
select rolname, rolconfig, rolcanlogin from pg_roles where rolname !~ '^pg_' order by 1;
"""
MARKER = "/var/lib/postgresql/became-more"
# What an application could leave in its own database, for whoever restores it as somebody greater.
OF_THE_APPLICATION = f"""
create function public.more() returns boolean language plpgsql as $f$
begin
  begin reset role; execute 'alter role pos superuser'; exception when others then null; end;
  begin execute $c$copy (select 1) to program 'touch {MARKER}'$c$; exception when others then null; end;
  return true;
end $f$;
create function public.same(name, name) returns boolean language plpgsql as
  $f$ begin perform public.more(); return $1::text = $2::text; end $f$;
create operator public.= (function = public.same, leftarg = name, rightarg = name);
create table public.remark (id integer primary key check (public.more()));
insert into public.remark values (1), (2), (3);
alter database pos set search_path = public, pg_catalog;
alter role pos set search_path = public, pg_catalog, E'a\nALTER ROLE pos SUPERUSER;\n\\\\! touch {MARKER}\n';
"""
# Where everybody may create in the schema public of the database `postgres`: the rule until PostgreSQL 15.
BESIDE = (
    OF_THE_APPLICATION.partition("create function public.same")[0]
    + """
create function public.joined(text, name) returns text language plpgsql as
  $f$ begin perform public.more(); return pg_catalog.textcat($1, $2::text); end $f$;
create operator public.|| (function = public.joined, leftarg = text, rightarg = name);
create function public.format(text, name) returns text language plpgsql as
  $f$ begin perform public.more(); return 'select 1'; end $f$;
"""
)

KILLED = """
export RESTIC_PASSWORD_FILE=/etc/fab-releases/pos.key HOME=/root
mkfifo /root/nothing
sleep 100 >/root/nothing 2>/dev/null &
writer=$!
restic --quiet backup --stdin </root/nothing >/dev/null 2>&1 &
reader=$!
until restic --no-lock --quiet list locks | grep -q .; do sleep 0.2; done
kill -9 $reader $writer
"""


@dataclass(frozen=True)
class Lost:
    """A shop whose server was destroyed, and what was on it."""

    shop: Shop
    """Its folder is the operator's; the server it names is a fresh one."""
    vault: Server
    more: str
    """Of releases.toml."""
    environment: str
    rows: dict[str, str]
    itself: str
    """What belongs to the database itself, and its roles."""
    release: str


def known_to(vault: Server, server: Server, origin: Path, *versions: str) -> None:
    """What a person prepares: the way to the vault and the repository. The index has these versions of `floating`."""
    server.put("/root/.ssh/id_ed25519", client_key().read_bytes(), 0o600)
    server.put("/root/.ssh/known_hosts", vault.known_hosts)
    server.run("id -u deploy || useradd --create-home --shell /bin/bash deploy")
    fill(server, origin)
    for version in versions:
        server.put(f"/srv/wheels/floating-{version}-py3-none-any.whl", wheel(version))
    server.run("mkdir -p /srv/wheels && echo UV_FIND_LINKS=/srv/wheels >>/etc/environment")


AS_THE_APPLICATION = (
    "psql -qAt -v ON_ERROR_STOP=1 \"$(sed -n 's/^DATABASE_URL=//p' /srv/pos/shared/.env.production)\" -f -"
)


def wheel(version: str) -> bytes:
    """Of a package that is nothing but its version."""
    folder, file = f"floating-{version}.dist-info", io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: floating\nVersion: {version}\n")
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return file.getvalue()


def rows(server: Server, database: str = "pos") -> dict[str, str]:
    return {
        table: server.run(f'psql -qAt -d {database} -c "{EVERYTHING.format(table)}"', user="postgres").stdout
        for table in HELD
    }


def sql(server: Server, text: str, database: str = "postgres") -> str:
    return server.run(f"psql -qAt -v ON_ERROR_STOP=1 -d {database}", user="postgres", input=text).stdout


def sell(server: Server, count: int, name: str = "sale") -> None:
    for number in range(count):
        body = json.dumps({"uid": f"{name}-{number}", "product": "coffee", "quantity": 1})
        server.run(
            f"curl -fsS -m 20 -H 'Host: pos.test' -H 'Content-Type: application/json' -d '{body}' "
            "http://127.0.0.1/api/sales/"
        )


def vault_of(boot: Boot) -> Server:
    vault = boot("vault")
    vault.run("install -d -o deploy /srv/vault")
    return vault


@pytest.fixture(scope="module")
def lost(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    """Prepared as the page says that one prepares, under "Before it happens"."""
    folder = tmp_path_factory.mktemp("operator")
    vault, first = vault_of(boot), boot("first", requirements=REQUIREMENTS)
    known_to(vault, first, origin, "1.0")
    repository = f"sftp:deploy@{vault.address}:/srv/vault/pos"
    more = f'[backup]\nrepository = "{repository}"\nkey = "{folder}/pos.key"\n[python]\nextra = ["floating"]\n'
    more += '[hooks]\nafter_checkout = ["first:echo once >>/srv/pos/shared/first"]\n'
    shop = Shop(folder, (first,))
    shop.configure(more)
    provision, backup = BEFORE
    follow(shop, provision)
    shop.fab("deploy", "--ref", "code-only", timeout=400)
    sell(first, 5)
    first.put("/srv/pos/shared/media/receipts/1.txt", "thank you", owner="app:www-data")
    first.put("/home/deploy/.ssh/id_ed25519", "the key that fetches", 0o600, "deploy")
    first.put("/etc/cron.d/reminders", "# mails everybody at nine\n")
    first.run(f"echo '{ADA}' >>/home/deploy/.ssh/authorized_keys; ln -sf /usr/share/zoneinfo/Asia/Tokyo /etc/localtime")
    sql(first, OF_THE_DATABASE)
    first.run(AS_THE_APPLICATION, input=OF_THE_APPLICATION)
    follow(shop, backup)
    environment = first.run("cat /srv/pos/shared/.env.production").stdout
    kept, itself, release = rows(first), sql(first, ITSELF), shop.current()
    first.close()
    second = boot("second", requirements=REQUIREMENTS)
    known_to(vault, second, origin, "1.0", "2.0")
    shop = Shop(folder, (second,))
    shop.configure(more)
    yield Lost(shop, vault, more, environment, kept, itself, release)
    for server in (vault, second):
        server.close()


def test_a_wrong_key_or_nothing_sent_away_touches_the_new_server(lost: Lost) -> None:
    key = lost.shop.folder / "pos.key"
    right = key.read_text()
    key.unlink()
    assert "pos.key is not here" in lost.shop.fab("recover", "--yes", check=2).stderr
    key.write_text("wrong")
    assert "is it the right key" in lost.shop.fab("recover", "--yes", check=1, timeout=300).stderr
    assert lost.shop.server.run("ls /srv/pos/releases /etc/systemd/system/pos*", check=False).returncode != 0
    key.write_text(right)


def test_a_recover_that_was_cut_off_stands_in_its_own_way(lost: Lost) -> None:
    """Killed while the database is filled; what is left of that is no reason to refuse the next run."""
    killed = lost.shop.start("recover", "--yes", "--json")
    assert killed.stdout
    for line in killed.stdout:
        if '"step_started"' in line and '"database"' in line:
            break
    else:
        pytest.fail("no such step")
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert lost.shop.current() == ""


def test_a_lost_server_is_lost_for_good(lost: Lost) -> None:
    """By what the page says to type: every row, every file, who may do what, and what was live with its packages."""
    (recover,) = WHEN
    told = follow(lost.shop, f"{recover} --wait 100s")
    server = lost.shop.server
    assert re.search(r"\(RTO\): fetch .*provision .*release ", told)
    assert rows(server) == lost.rows
    assert sql(server, ITSELF) == lost.itself
    asked = "psql -qAt 'postgres://reporting:monthly@127.0.0.1/pos' -c 'select count(*) from sales_sale'"
    assert server.run(asked).stdout.strip() == "5"
    assert server.run("cat /srv/pos/shared/.env.production").stdout == lost.environment
    receipt = "/srv/pos/shared/media/receipts/1.txt"
    assert server.run(f"cat {receipt}; stat -c ', %U:%G' {receipt}").stdout.strip() == "thank you, app:www-data"
    assert lost.shop.current().rpartition("-")[2] == lost.release.rpartition("-")[2]
    assert server.run("grep floating /srv/pos/current/.release/freeze.txt").stdout == "floating==1.0\n"
    assert server.run("cat /srv/pos/shared/first").stdout == "once\n", "what a first deploy does was done again"
    assert json.loads(lost.shop.get())["ok"] is True
    assert lost.shop.fab("provision", "--check").returncode == 0
    secrets = [line.partition("=")[2] for line in lost.environment.splitlines() if "SECRET_KEY" in line]
    secrets.append((lost.shop.folder / "pos.key").read_text().strip())
    assert all(secret not in told for secret in secrets)
    keys = server.run("cat /home/deploy/.ssh/id_ed25519 /home/deploy/.ssh/authorized_keys; date +%Z").stdout
    assert keys.startswith("the key that fetches")
    assert ADA in keys
    assert keys.endswith("JST\n")
    assert re.search(r"yours to do: files .*/etc/cron.d/reminders", told), "what nobody puts back is not named"
    assert server.run("ls /etc/cron.d/reminders", check=False).returncode != 0
    assert server.run("ls /run/fab-releases.* /srv/pos/backups/database/*.dump", check=False).stdout.count(".dump") == 1


def test_the_application_is_no_more_after_a_recover_than_before(lost: Lost) -> None:
    server = lost.shop.server
    assert sql(server, "select rolname from pg_roles where rolsuper").split() == ["postgres"]
    assert sql(server, "select count(*) from pg_roles where rolname ~ 'fab_recover'").strip() == "0"
    assert server.run(f"ls {MARKER}", check=False).returncode != 0, "code of the application ran as account postgres"
    assert sql(server, "select count(*) from public.remark", "pos").strip() == "3"


def test_no_superuser_meets_functions_that_others_left_in_the_database_it_works_in(lost: Lost) -> None:
    """Neither when it is provisioned nor while it is looked after."""
    server = lost.shop.server
    sql(server, "grant create on schema public to pos")
    server.run(
        AS_THE_APPLICATION.replace('env.production)"', 'env.production | sed s,/[^/]*$,/postgres,)"'), input=BESIDE
    )
    sql(server, "alter role pos in database postgres set search_path = public, pg_catalog")
    try:
        lost.shop.fab("provision", "--yes", timeout=400)
        for words in (("check",), ("status",), ("backup",)):
            lost.shop.fab(*words, check=None, timeout=300)
    finally:
        sql(server, "revoke create on schema public from pos; alter role pos in database postgres reset all")
    assert sql(server, "select rolname from pg_roles where rolsuper").split() == ["postgres"]
    assert server.run(f"ls {MARKER}", check=False).returncode != 0, "code of the application ran as account postgres"


def test_a_server_that_serves_is_overwritten(lost: Lost) -> None:
    assert "is live here" in lost.shop.fab("recover", "--yes", check=4).stderr


def test_what_was_sent_away_can_be_read_without_the_key(lost: Lost) -> None:
    found = lost.vault.run("grep -rlE 'sale-1|SECRET_KEY|thank you' /srv/vault || true").stdout
    assert found == ""


def test_backups_that_cannot_be_sent_away_look_well(lost: Lost) -> None:
    """The next backup of the rebuilt server goes to the same place, even where a run was killed that had it locked.

    With the place gone, or without roles and grants, it says so.
    """
    lost.shop.server.run(f"export RESTIC_REPOSITORY=sftp:deploy@{lost.vault.address}:/srv/vault/pos\n{KILLED}")
    assert lost.vault.run("ls /srv/vault/pos/locks").stdout
    assert "and sent to" in lost.shop.fab("backup", timeout=300).stderr
    assert lost.vault.run("ls /srv/vault/pos/locks").stdout == ""
    lost.shop.server.run("chmod a-x /usr/lib/postgresql/15/bin/psql")
    assert "roles and grants could not be read" in lost.shop.fab("backup", check=1, timeout=300).stderr
    lost.shop.server.run("chmod a+x /usr/lib/postgresql/15/bin/psql")
    lost.vault.run("mv /srv/vault/pos /srv/vault/gone && chown root /srv/vault")
    try:
        refused = lost.shop.fab("backup", check=1, timeout=300)
        assert "on this server only" in refused.stderr
    finally:
        lost.vault.run("mv /srv/vault/gone /srv/vault/pos && chown deploy /srv/vault")


def test_a_second_person_provisions_another_key(lost: Lost) -> None:
    """Made anew or taken from elsewhere it opens nothing, and would be kept as if it did."""
    key = lost.shop.folder / "pos.key"
    right = key.read_text()
    key.unlink()
    try:
        refused = lost.shop.fab("provision", "--yes", check=1).stderr
        assert "this server has the key" in refused
        assert not key.exists()
        key.write_text("another one")
        assert "another key" in lost.shop.fab("provision", "--yes", check=1).stderr
    finally:
        key.write_text(right)
    assert lost.shop.server.run("cat /etc/fab-releases/pos.key").stdout == right


def test_a_secret_of_the_storage_that_changed_never_reaches_the_server(lost: Lost) -> None:
    before, after = ({"STORAGE_SECRET": f"only-for-tests-{one}"} for one in ("before", "after"))
    lost.shop.configure(lost.more.replace("[python]", 'variables = ["STORAGE_SECRET"]\n[python]'))
    try:
        lost.shop.fab("provision", "--yes", environment=before)
        lost.shop.fab("provision", "--check", environment=before)
        told = lost.shop.fab("provision", "--check", check=1, environment=after).stdout
        told += lost.shop.fab("provision", "--yes", environment=after).stderr
    finally:
        lost.shop.configure(lost.more)
    assert "/etc/fab-releases/pos.env" in told
    assert "only-for-tests" not in told
    assert lost.shop.server.run("cat /etc/fab-releases/pos.env").stdout == "STORAGE_SECRET=only-for-tests-after\n"


STAGING = """
[stages.staging]
domain = "drill.test"
deploy_to = "/srv/drill"
hosts = [{{ name = "drill", address = "{address}", host_key = "{key}", identity = "{identity}" }}]
backup = {{ repository = "" }}
"""
QUIET = """
[stages.staging.recover]
variables = { EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend", POS_SLOW = "0" }
"""


@pytest.mark.nightly
def test_a_drill_speaks_to_customers_or_to_production(lost: Lost, boot: Boot, origin: Path) -> None:
    """The same data on another stage's server; nothing goes from there to anybody, nor to the repository."""
    shop, (line,) = lost.shop, DRILL
    drill = boot("drill", requirements=REQUIREMENTS)
    known_to(lost.vault, drill, origin, "1.0", "2.0")
    key = " ".join(drill.known_hosts.split()[1:3])
    written = 'default_stage = "production"\n' + (shop.folder / "releases.toml").read_text()
    staging = STAGING.format(address=drill.address, key=key, identity=client_key())
    stored = "find /srv/vault -type f -printf '%p %s %T@\\n' | sort | sha256sum"
    try:
        (shop.folder / "releases.toml").write_text(written + staging)
        assert "would write to its customers" in follow(shop, line, check=2)
        sends = staging.replace("backup = { repository", "branch = 'x' #")
        (shop.folder / "releases.toml").write_text(written + sends + QUIET)
        assert "is that of stage production" in follow(shop, line, check=2)
        (shop.folder / "releases.toml").write_text(written + staging + QUIET)
        before = lost.vault.run(stored).stdout
        told = follow(shop, line)
        assert lost.vault.run(stored).stdout == before, "the repository was written to"
        assert rows(drill, "pos--staging")["sales_sale"] == lost.rows["sales_sale"]
        page = drill.run("curl -sS -m 10 -H 'Host: drill.test' http://127.0.0.1/healthz").stdout
        assert json.loads(page)["ok"] is True
        environment = drill.run("cat /srv/drill/shared/.env.production").stdout
        assert "EMAIL_BACKEND=django.core.mail.backends.console.EmailBackend\n" in environment
        theirs = {line for line in lost.environment.splitlines() if re.match("SECRET_KEY|DATABASE_URL|REDIS_URL", line)}
        assert len(theirs) == 3
        assert not theirs & set(environment.splitlines())
        assert not any(line.partition("=")[2] in told for line in environment.splitlines() if "SECRET" in line)
        assert "DEBUG" in next(one for one in told.splitlines() if "secrets too" in one) or "secrets too" not in told
        assert ADA not in drill.run("cat /home/deploy/.ssh/authorized_keys").stdout
        assert sql(drill, "select rolpassword is null from pg_authid where rolname = 'reporting'").strip() == "t"
        gone = "/etc/systemd/system/pos--staging-beat.service"
        gone += " /etc/fab-releases/pos--staging.key /etc/fab-releases/pos.key"
        found = drill.run(f"ls -d {gone} /var/lib/fab-releases/recovered", check=False).stdout
        assert found == ""
        assert "is live here" in follow(shop, line, check=4)
    finally:
        shop.configure(lost.more)
        drill.close()


@pytest.mark.nightly
def test_the_host_that_was_lost_takes_the_other_one_along(boot: Boot, origin: Path, tmp_path: Path) -> None:
    """The database on its own host: first that one is lost, then the application's, which leaves the data alone."""
    vault, app, data = vault_of(boot), boot("app", requirements=REQUIREMENTS), boot("data")
    for server in (app, data):
        known_to(vault, server, origin)
    shop = Shop(tmp_path, (app, data))
    repository = f"sftp:deploy@{vault.address}:/srv/vault/apart"
    more = f'[backup]\nrepository = "{repository}"\nkey = "{tmp_path}/pos.key"\n'
    shop.configure(more, roles=('["web", "worker", "beat", "db"]', '["postgresql"]'))
    try:
        shop.fab("provision", "--yes", timeout=900)
        shop.fab("deploy", "--ref", "code-only", timeout=400)
        sell(app, 3)
        sql(data, OF_THE_DATABASE)
        shop.fab("backup", timeout=300)
        assert "app2: off-site" not in shop.fab("status").stdout, "a new server is not at fault"
        data.run("systemctl start pos-offsite.service", timeout=200)
        assert re.search(r"roles and configuration were sent away \d+ s ago", shop.fab("status").stdout)
        unit = "[Service]\nExecStart=\nExecStart=/bin/false\n"
        data.put("/etc/systemd/system/pos-offsite.service.d/fails.conf", unit)
        data.run("systemctl daemon-reload; systemctl start pos-offsite.service", check=False)
        heard = "until [ -s /var/lib/fab-releases/pos-journal.jsonl ]; do sleep 0.2; done"
        data.run(heard, timeout=60)
        found = shop.fab("-H", "app2", "check", check=None).stdout
        assert "look off-site: sending roles and configuration away failed" in found
        assert "pos-offsite.service has failed" not in found
        data.run("rm -r /etc/systemd/system/pos-offsite.service.d; systemctl daemon-reload")
        data.run("systemctl start pos-offsite.service", timeout=200)
        itself, held = sql(data, ITSELF), rows(data)["sales_sale"]
        assert "not empty" in shop.fab("-H", "app2", "recover", "--yes", check=4).stderr

        data.reset(data.pristine)
        known_to(vault, data, origin)
        told = shop.fab("-H", "app2", "recover", "--yes", timeout=900).stderr
        assert "is well with it" in told
        assert (sql(data, ITSELF), rows(data)["sales_sale"]) == (itself, held)

        sell(app, 2, "later")
        app.reset(app.pristine)
        known_to(vault, app, origin)
        shop.fab("-H", "app1", "recover", "--yes", timeout=900)
        assert sql(data, "select count(*) from sales_sale", "pos").strip() == "5", "a living database was replaced"
        assert json.loads(shop.get())["ok"] is True
        assert "nothing to do" in shop.fab("provision", "--yes", timeout=400).stderr
    finally:
        for server in (vault, app, data):
            server.close()
