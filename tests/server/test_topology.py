"""Several machines that need one another: they come up together, change without anybody noticing, and lose one."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.servers import Server
from tests.servers.server import client_key
from tests.servers.shop import REQUIREMENTS, TOML, Shop, fill

from .load import assert_none, load, sales

pytestmark = [pytest.mark.server, pytest.mark.nightly]

ROLES = {
    "web1": ["web", "worker", "beat", "db"],
    "web2": ["web", "worker"],
    "data": ["postgresql", "redis"],
    "copy": ["replica"],
    "front": ["balancer"],
}
MORE = """
[environment]
set = { POS_SLOW = "1" }

[provision]
logs = false
"""
PATIENCE = 90


@dataclass(frozen=True)
class Topology:
    """The five of them, under the names they have in releases.toml."""

    shop: Shop
    hosts: dict[str, Server]

    def configure(self, more: str = MORE, **roles: list[str]) -> None:
        lines = []
        for name, server in self.hosts.items():
            does = json.dumps(roles.get(name, ROLES[name]))
            key = " ".join(server.known_hosts.split()[1:3])
            lines.append(
                f'  {{ name = "{name}", address = "{server.address}", roles = {does}, '
                f'host_key = "{key}", identity = "{client_key()}" }},'
            )
        (self.shop.folder / "releases.toml").write_text(TOML.format(more=more, workers=1, hosts="\n".join(lines)))
        (self.shop.folder / "fabfile.py").write_text("from tasks import namespace\n")

    @property
    def front(self) -> str:
        return self.hosts["front"].address

    def get(self, path: str = "/healthz", *words: str) -> str:
        """As a user does, from outside."""
        command = ["curl", "-sS", "-m", "30", "-H", "Host: pos.test", *words, f"http://{self.front}{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def copied(self, question: str) -> str:
        return self.hosts["copy"].run(f'psql -qAt -d pos -c "{question}"', user="postgres").stdout.strip()


@pytest.fixture(scope="module")
def five(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """One `fab provision` and one `fab deploy` after five fresh Debians."""
    hosts = {name: boot(name, requirements=REQUIREMENTS if name.startswith("web") else None) for name in ROLES}
    shop = Shop(tmp_path_factory.mktemp("topology"), tuple(hosts.values()))
    topology = Topology(shop, hosts)
    topology.configure()
    for name in ("web1", "web2"):
        fill(hosts[name], origin)
    shop.fab("provision", "--yes", timeout=500)
    shop.fab("deploy", "--ref", "base", timeout=400)
    yield topology
    for server in hosts.values():
        server.close()


def test_a_second_run_changes_something(five: Topology) -> None:
    assert "nothing to do" in five.shop.fab("provision", "--yes").stderr


def test_a_sale_does_not_reach_the_database_or_its_copy(five: Topology) -> None:
    """Through the balancer into PostgreSQL on a third host, and from there to a fourth."""
    served = json.loads(five.get())
    assert (served["ok"], served["database"], served["cache"]) == (True, "ok", "ok")
    body = json.dumps({"uid": "one-of-five", "product": "coffee", "quantity": 1})
    five.get("/api/sales/", "-H", "Content-Type: application/json", "--data", body)
    _await(lambda: five.copied("select count(*) from sales_sale where uid = 'one-of-five'") == "1", "the copy has it")


def test_somebody_else_reaches_the_data(five: Topology) -> None:
    """Only hosts with releases come to PostgreSQL and Redis, and with passwords; only the balancer comes to nginx."""
    data, web = five.hosts["data"].address, five.hosts["web1"].address

    def reaches(host: str, address: str, port: int) -> bool:
        asked = f"timeout 2 bash -c '</dev/tcp/{address}/{port}'"
        return five.hosts[host].run(asked, check=False).returncode == 0

    assert [reaches("web2", data, port) for port in (5432, 6379)] == [True, True]
    assert [reaches("front", data, port) for port in (5432, 6379)] == [False, False]
    assert (reaches("front", web, 80), reaches("copy", web, 80)) == (True, False)
    assert (reaches("copy", data, 5432), reaches("copy", data, 6379)) == (True, False)
    refused = five.hosts["web2"].run(f"psql -w 'host={data} user=pos dbname=pos sslmode=require'", check=False).stderr
    assert "password" in refused
    assert "NOAUTH" in five.hosts["web2"].run(f"redis-cli -h {data} ping").stdout
    plain = five.hosts["web2"].run(f"psql -w 'host={data} user=pos dbname=pos sslmode=disable'", check=False).stderr
    assert "no pg_hba.conf entry" in plain


def test_a_user_pretends_to_be_somebody_else(five: Topology) -> None:
    """What the balancer says of its user is taken, and what the user says is not."""
    claims = ("X-Forwarded-For: 192.0.2.66", "X-Forwarded-Proto: https", "X-Release-Probe: 1")
    page = five.get("/healthz?who=forged", "-i", *(word for one in claims for word in ("-H", one)))
    assert "x-release" not in page.lower(), "a visitor is told which release answers"
    asked = "curl -sSi -m 10 -H 'Host: pos.test' -H 'X-Release-Probe: 1' http://127.0.0.1/healthz"
    for name in ("front", "web1"):  # the balancer may ask, and passes on that it did
        assert "x-release: " in five.hosts[name].run(asked).stdout.lower(), name
    logs = "".join(
        five.hosts[name].run("grep -h who=forged /var/log/nginx/pos.access.log || true").stdout
        for name in ("web1", "web2")
    )
    assert logs
    assert "192.0.2.66" not in logs
    assert not logs.startswith(five.front)


def test_only_the_database_is_provisioned_and_shuts_the_application_out(five: Topology) -> None:
    """With -H its passwords are still those of the environment file, which is on other hosts."""
    five.hosts["data"].run("psql -qc 'alter role pos nologin'", user="postgres")
    five.hosts["data"].run("rm /etc/redis/users.acl")
    five.shop.fab("-H", "data", "provision", "--yes")
    _await(lambda: json.loads(five.get())["ok"], "the application comes in again")


def test_a_secret_is_shown_or_lies_about(five: Topology) -> None:
    """The password of the copy is in one file that only PostgreSQL reads."""
    copy = five.hosts["copy"]
    password = copy.run("cut -d: -f5 /var/lib/postgresql/fab-releases.pgpass").stdout.strip()
    assert len(password) > 30
    search = "grep -rlsF -f - /etc /var/lib /var/log /srv || true"  # its words are in the journal, too
    found = copy.run(search, input=password).stdout.split()
    assert found == ["/var/lib/postgresql/fab-releases.pgpass"]
    assert copy.run("stat -c '%U %a' /var/lib/postgresql/fab-releases.pgpass").stdout.split() == ["postgres", "600"]
    assert password not in five.shop.fab("provision", "--check", "--json").stdout


def test_a_rolling_deploy_is_noticed(five: Topology) -> None:
    """30 requests a second come in while one host after the other is drained, switched and put back."""
    with load(five.front, 30) as users:
        told = five.shop.fab("deploy", "--ref", "code-only", "--batch", "1", timeout=300).stderr
    assert_none(answer for answer in users.answers if not answer.ok)
    assert len(users.answers) > 100
    sold = Counter(sales(five.hosts["data"], users))
    assert sold == Counter(answer.uid for answer in users.answers if answer.uid)
    assert re.findall(r"(?m)^  front .*(Send web\d (?:no more requests|requests again))", told) == [
        "Send web1 no more requests",
        "Send web1 requests again",
        "Send web2 no more requests",
        "Send web2 requests again",
    ]
    assert {answer.release for answer in users.answers if answer.release} >= {five.shop.current()}


def test_a_drained_host_still_gets_users(five: Topology) -> None:
    """Until it is put back, whatever provisioning and deploys do meanwhile."""
    fab = five.shop.fab
    fab("drain", "web2")
    assert "nobody else answers" in fab("drain", "web1", check=1).stderr
    status = fab("status", check=1).stdout
    assert "web2 is drained" in status
    assert fab("provision", "--check").returncode == 0
    fab("deploy", "--ref", "base", "--batch", "1", timeout=300)
    for _ in range(10):
        five.get("/healthz?who=drained")
    log = "grep -c who=drained /var/log/nginx/pos.access.log || true"
    assert [five.hosts[name].run(log).stdout.strip() for name in ("web1", "web2")] == ["10", "0"]
    fab("undrain", "web2")
    assert fab("status").returncode == 0


def test_a_second_balancer_sends_users_to_a_host_that_is_drained(five: Topology) -> None:
    """Two of them, before the same hosts: each is told, by people and by deploys."""
    five.configure(copy=["replica", "balancer"])
    five.shop.fab("provision", "--yes", timeout=300)
    both = [five.hosts[name] for name in ("front", "copy")]

    def down() -> list[str]:
        said = "grep -c ' down;  # web2' /etc/nginx/fab-releases/pos.upstream || true"
        return [server.run(said).stdout.strip() for server in both]

    try:
        five.shop.fab("drain", "web2")
        assert down() == ["1", "1"]
        five.shop.fab("undrain", "web2")
        told = five.shop.fab("deploy", "--ref", "code-only", "--batch", "1", "--force", timeout=300).stderr
        assert re.search(r"(?m)^  copy .*Send web1 no more requests", told)
        assert down() == ["0", "0"]
        assert [checked(five)[name]["balancer"][:2] for name in ("front", "copy")] == ["ok", "ok"]
    finally:
        five.configure()
        five.shop.fab("provision", "--yes", timeout=300)
        both[1].run("systemctl disable -q --now nginx && rm -r /etc/nginx/sites-enabled/pos /etc/nginx/fab-releases")


def checked(five: Topology, code: int | None = 0) -> dict[str, dict[str, str]]:
    """Host -> what -> "state value -> hint" of the findings of `fab check`, a line each."""
    told: dict[str, dict[str, str]] = {}
    for host, findings in json.loads(five.shop.fab("check", "--json", check=code).stdout)["hosts"].items():
        for one in findings:
            assert bool(one["hint"]) == (one["state"] in ("look", "bad")), one
            said = told.setdefault(host, {})
            said[one["what"]] = said.get(one["what"], "") + f"{one['state']} {one['value']} -> {one['hint']}\n"
    return told


def test_what_is_wrong_beside_the_application_is_nobodys_business(five: Topology) -> None:
    """`fab check` asks the database, its copy and the balancer as it asks the hosts with releases."""
    data, copy, front = (five.hosts[name] for name in ("data", "copy", "front"))
    well = checked(five)
    assert list(well) == list(ROLES)
    assert "takes writes, copy follows" in well["data"]["postgresql"]
    assert well["data"]["redis-server"].startswith("ok ")
    assert well["copy"]["replica"].startswith("ok follows data")
    assert well["front"]["balancer"].startswith("ok web1, web2 answer it")
    assert (well["front"]["sudo"][:2], well["front"]["units"][:2]) == ("ok", "ok")
    assert {"git", "python", "tools", "files"}.isdisjoint(well["data"])
    copy.run("systemctl stop postgresql@15-main")
    front.run("systemctl stop nginx; echo '# by hand' >>/etc/nginx/sites-available/pos")
    data.run("systemctl stop redis-server; systemd-run -q --unit=unlucky false || true")
    try:
        _await(lambda: "follow it" in checked(five, 4)["data"]["postgresql"], "the database misses its copy")
        ill = checked(five, 4)
    finally:
        data.run("systemctl start redis-server; systemctl reset-failed unlucky")
        front.run("sed -i '/# by hand/d' /etc/nginx/sites-available/pos; systemctl start nginx")
        copy.run("systemctl start postgresql@15-main")
    assert "look copy does not follow it -> fab -H copy check" in ill["data"]["postgresql"]
    assert ill["data"]["redis-server"].startswith("bad is inactive -> ")
    assert "look unlucky.service has failed" in ill["data"]["services"]
    assert "look does not answer" in ill["copy"]["replica"]
    assert "bad nginx does not run" in ill["front"]["balancer"]
    assert "look not as releases.toml says" in ill["front"]["units"]
    _await(lambda: checked(five, None)["data"]["postgresql"].startswith("ok"), "the copy follows again")


def test_the_account_that_deploys_may_do_more_to_the_balancer(five: Topology) -> None:
    run = five.hosts["front"].run
    for words in ("pos-balance drain web9", "pos-balance", "pos-balance drain web1 web2", "nginx -s stop"):
        assert run(f"sudo -n /usr/local/sbin/{words}", user="deploy", check=False).returncode != 0, words


def test_a_form_that_was_sent_encrypted_is_refused(five: Topology) -> None:
    """TLS ends at the balancer, and the application knows: Django compares the origin of a form with how it came."""
    forged = _log_in(five, "http://pos.test", ["-H", "X-Forwarded-Proto: https"])
    assert forged == "403", "a user who only says that it was encrypted is believed"
    five.hosts["front"].run(CERTIFICATE.format(days=60))
    files = 'certificate = "files"\nfullchain = "/etc/ssl/certs/pos.pem"\nkey = "/etc/ssl/private/pos.key"\n'
    five.configure(f"{MORE}\n[tls]\n{files}")
    try:
        five.shop.fab("provision", "--yes", timeout=300)
        assert five.get("/", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}") == "301 https://pos.test/"
        assert checked(five)["front"]["certificate"].startswith("ok")
        _short_lived(five.hosts["front"])
        told = checked(five)
        assert re.match("look ends .* in 4 days", told["front"]["certificate"]), "it ends and nobody is told"
        assert "certificate" not in told["web1"]
        assert _log_in(five, "https://pos.test", []) == "200"
    finally:
        five.configure()
        five.shop.fab("provision", "--yes", timeout=300)


CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days {days} -subj /CN=pos.test "
    "-addext subjectAltName=DNS:pos.test -keyout /etc/ssl/private/pos.key -out /etc/ssl/certs/pos.pem"
)


def _short_lived(server: Server) -> None:
    server.run(f"{CERTIFICATE.format(days=5)} && systemctl reload nginx && sleep 1")


def _log_in(five: Topology, address: str, words: list[str]) -> str:
    """The status of a login with a wrong password that claims to come from an encrypted page; 403: not believed."""
    to = ["--resolve", f"pos.test:80:{five.front}", "--resolve", f"pos.test:443:{five.front}", *words]
    jar = five.shop.folder / "cookies"
    command = ["curl", "-sSk", "-m", "30", "-b", jar, "-c", jar, *to, f"{address}/admin/login/"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[0]
    form = ["-H", "Origin: https://pos.test", "--data", f"csrfmiddlewaretoken={token}&username=a&password=b"]
    answer = [*form, "-o", "/dev/null", "-w", "%{http_code}"]
    return subprocess.run([*command, *answer], capture_output=True, text=True, check=True).stdout


def test_a_pool_of_connections_gets_in_the_way_of_a_migration(five: Topology) -> None:
    """Behind pgBouncer the application shares sessions; migrations and their restore point have their own."""
    five.configure(f"{MORE}pgbouncer = true\n")
    five.shop.fab("provision", "--yes", timeout=400)
    assert five.shop.fab("provision", "--check").returncode == 0
    file = "/srv/pos/shared/.env.production"
    for name in ("web1", "web2"):
        five.hosts[name].run(f"sed -i 's/:5432/:6432/' {file} && echo DATABASE_DIRECT_PORT=5432 >> {file}")
    five.shop.fab("deploy", "--ref", "additive-migration", timeout=300)
    assert json.loads(five.get())["database"] == "ok"
    data = five.hosts["data"]
    assert data.run("ss -tnH state established 'sport = :6432'").stdout
    shared = "select count(*) from pg_stat_activity where datname = 'pos' and client_addr = '127.0.0.1'"
    assert int(data.run(f'psql -qAtc "{shared}"', user="postgres").stdout) > 0
    assert five.hosts["web1"].run(f"ls /srv/pos/backups/restore-points/{five.shop.current()}*").stdout
    assert re.search(r"data +pgbouncer +active", five.shop.fab("status").stdout)
    five.shop.fab("backup")
    told = five.shop.fab("restore-db", "--date", "latest", "--yes", timeout=300).stderr
    warned = told.index("pgBouncer runs on data, and only on web1, which swaps, could it be told to hold requests")
    assert warned < told.index("Restore the database")
    _await(lambda: json.loads(five.get())["database"] == "ok", "the pool finds the database again")


def test_one_dead_host_takes_the_shop_down(five: Topology) -> None:
    """The balancer goes on with the other, and `fab status` says what is missing; back again, it takes its part."""
    dead = five.hosts["web2"]
    dead.power_loss()
    for _ in range(20):
        assert json.loads(five.get())["ok"]
    shown = five.shop.fab("status", check=1)
    assert re.search(r"front +balancer +web1 answers", shown.stdout)
    assert re.search(r"front +balancer +web2 does not answer", shown.stdout)
    assert "web2: no connection to" in shown.stdout
    told = json.loads(five.shop.fab("status", "--json", check=1).stdout)
    assert list(told["unreachable"]) == ["web2"]
    dead.start()
    _await(lambda: five.shop.fab("status", check=None).returncode == 0, "all of them do their part again")


def test_data_that_is_there_is_overwritten_by_a_copy(five: Topology) -> None:
    """A database of its own stays one: provisioning refuses, and says what to do."""
    copy = five.hosts["copy"]
    copy.run("pg_ctlcluster 15 main promote", user="postgres")
    _await(lambda: five.copied("select pg_is_in_recovery()") == "f", "it is on its own")
    assert "is a database of its own now" in five.shop.fab("status", check=1).stdout
    refused = five.shop.fab("provision", "--yes", check=1)
    assert "there is data in" in refused.stderr
    assert "pg_dropcluster" in refused.stderr
    assert five.copied("select count(*) from sales_sale where uid = 'one-of-five'") == "1"
    copy.run("pg_dropcluster --stop 15 main")
    five.shop.fab("provision", "--yes", timeout=300)
    assert five.copied("select pg_is_in_recovery()") == "t"


def _await(what, why: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.3)
