"""https from an authority that really comes and asks: no certificate, and no authority, costs anybody the site."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

from tests.conftest import Boot
from tests.servers import Snapshot
from tests.servers.server import Server
from tests.servers.shop import Shop, fill

from .conftest import await_page

pytestmark = pytest.mark.server
CERTBOT = '[tls]\ncertificate = "certbot"\nserver = "https://localhost:14000/dir"\nnames = [{names}]\n'
WITH_WWW = CERTBOT.format(names='"www.pos.test"')
AUTHORITY = r"""
apt-get -q -y install pebble
mkdir -p /srv/pebble && cd /srv/pebble
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 30 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost
cat cert.pem >>/etc/ssl/certs/ca-certificates.crt
cat >config.json <<'END'
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
  "certificate": "/srv/pebble/cert.pem", "privateKey": "/srv/pebble/key.pem",
  "httpPort": 80, "tlsPort": 443, "certificateValidityPeriod": 7776000}}
END
systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_VA_ALWAYS_VALID=0 \
  --setenv=PEBBLE_WFE_NONCEREJECT=0 pebble -config /srv/pebble/config.json
for attempt in $(seq 300); do curl -sf https://localhost:15000/roots/0 >/srv/root.pem && exit; sleep 0.2; done
exit 1
"""
OLD = """
import datetime, pathlib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
live = pathlib.Path("/etc/letsencrypt/live/pos")
key = serialization.load_pem_private_key((live / "privkey.pem").read_bytes(), None)
was = x509.load_pem_x509_certificate((live / "cert.pem").read_bytes())
now = datetime.datetime.utcnow()
made = x509.CertificateBuilder(
    was.issuer, was.subject, was.public_key(), 7, now - datetime.timedelta(85), now + datetime.timedelta(5)
).add_extension(was.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, False)
for name in ("cert.pem", "fullchain.pem"):
    (live / name).write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
"""
OWN = """
mkdir -p /etc/ssl/own && cd /etc/ssl/own
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out chain.pem -days 30 \
  -subj /CN={name} -addext subjectAltName=DNS:{name} && cp chain.pem /srv/root.pem
"""
FILES = '[tls]\ncertificate = "files"\nfullchain = "/etc/ssl/own/chain.pem"\nkey = "/etc/ssl/own/key.pem"\n'
EVIL = "try_files_is_evil_too"
"""It asks for open_file_cache, which would go on serving files of the release before."""


@pytest.fixture(scope="module")
def made(boot: Boot, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Snapshot]]:
    """A provisioned server with a release live over http, and its disk at that moment."""
    server = boot("tls", ssh_port=7822, bare=True)
    shop = Shop(tmp_path_factory.mktemp("tls"), (server,))
    shop.configure()
    shop.fab("provision", "--yes", timeout=600)
    fill(server, origin)
    shop.fab("deploy", "--ref", "base", timeout=400)
    server.run(f"echo '{server.address} pos.test www.pos.test' >>/etc/hosts")
    yield shop, server.snapshot()
    server.power_loss()


@pytest.fixture
def plain(made: tuple[Shop, Snapshot]) -> Shop:
    """As it was when it served http only."""
    return _put_back(*made)


@pytest.fixture(scope="module")
def secure(made: tuple[Shop, Snapshot]) -> Shop:
    """With a certificate of an authority that runs beside it; tests leave it as it is. It forgets all in a reboot."""
    shop = _put_back(*made)
    shop.server.run(AUTHORITY, timeout=200)
    shop.configure(WITH_WWW)
    shop.fab("provision", "--yes", timeout=400)
    return shop


def _put_back(shop: Shop, snapshot: Snapshot) -> Shop:
    shop.server.reset(snapshot)
    shop.server.settle()
    shop.configure()
    await_page(shop)
    return shop


def curl(server: Server, url: str, *words: str) -> str:
    """Status line, headers and page, as somebody gets them who trusts the authority's root and nobody else."""
    words = ("curl", "-sSi", "-m", "20", "--path-as-is", "--cacert", "/srv/root.pem", *words, url)
    done = server.run(" ".join(f"'{word}'" for word in words), check=False)
    return (done.stdout + done.stderr).replace("\r", "")


def serial(server: Server) -> str:
    shown = "openssl s_client -connect 127.0.0.1:443 -servername pos.test </dev/null 2>/dev/null"
    return server.run(f"{shown} | openssl x509 -noout -serial").stdout.strip()


def different(shop: Shop) -> set[str]:
    checked = shop.fab("provision", "--check", "--json", check=None)
    return {one["thing"] for one in json.loads(checked.stdout)}


def is_served(answer: str) -> bool:
    return bool(re.match(r"HTTP/[\d.]+ 200 ", answer)) and '"ok": true' in answer


# -- before there is a certificate


def test_an_authority_that_does_not_answer_takes_the_site_away(plain: Shop) -> None:
    """http as before, nothing on 443, an error that names the authority; the rest of the server is made."""
    plain.configure(WITH_WWW)
    plain.server.run("ufw --force disable")
    failed = plain.fab("provision", "--yes", check=1, timeout=400)
    assert "no certificate from https://localhost:14000/dir" in failed.stderr
    assert "Connection refused" in failed.stderr
    assert is_served(curl(plain.server, "http://pos.test/healthz"))
    assert ":443" not in plain.server.run("ss -ltnH").stdout
    assert "Status: active" in plain.server.run("ufw status").stdout
    assert {"certificate", "served certificate"} <= different(plain)
    plain.fab("deploy", "--ref", "base", "--force")


def test_a_certificate_of_our_own_that_does_not_fit_is_served(plain: Shop) -> None:
    """files: missing, for another name or with another key they are refused; exchanged, they are noticed."""
    server = plain.server
    plain.configure(FILES)
    refused = plain.fab("provision", "--yes", check=1)
    assert "the certificate /etc/ssl/own/chain.pem" in refused.stderr
    server.run(OWN.format(name="other.test"))
    assert "is for pos.test" in plain.fab("provision", "--yes", check=1).stderr
    assert is_served(curl(server, "http://pos.test/healthz"))
    server.run(OWN.format(name="pos.test"))
    plain.fab("provision", "--yes")
    first = serial(server)
    assert is_served(curl(server, "https://pos.test/healthz"))
    server.run(OWN.format(name="pos.test"))
    assert different(plain) == {"served certificate"}
    plain.fab("provision", "--yes")
    assert serial(server) != first
    assert is_served(curl(server, "https://pos.test/healthz"))
    server.run("openssl ecparam -name prime256v1 -genkey -noout -out /etc/ssl/own/key.pem")
    assert "belongs to /etc/ssl/own/key.pem" in plain.fab("provision", "--yes", check=1).stderr
    assert is_served(curl(server, "https://pos.test/healthz"))


# -- with one


def test_a_user_is_not_brought_to_https(secure: Shop) -> None:
    """The chain is verified, http and the other name lead there, browsers are told to stay."""
    page = curl(secure.server, "https://pos.test/healthz")
    assert page.startswith("HTTP/2 200")
    assert is_served(page)
    assert "strict-transport-security: max-age=86400\n" in page
    for url in ("http://pos.test/a/?b=c", "http://www.pos.test/a/?b=c", "https://www.pos.test/a/?b=c"):
        answer = curl(secure.server, url)
        assert " 301" in answer.splitlines()[0], url
        assert "location: https://pos.test/a/?b=c\n" in answer.replace("Location", "location"), url


ECHO = """
import json, socketserver
from http.server import BaseHTTPRequestHandler
class Echo(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        for name, value in (("X-Release", "20261122-101530-9f3c2ab"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "nginx"
socketserver.ThreadingUnixStreamServer("/srv/echo/web.sock", Echo).serve_forever()
"""
CLAIMS = {
    "X-Forwarded-Host": "evil.test",
    "X-Forwarded-Port": "4443",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-For": "192.0.2.66",
    "X-Real-IP": "192.0.2.66",
    "Forwarded": "for=192.0.2.66;host=evil.test",
    "Remote-User": "admin",
    "X-Release-Probe": "1",
}
PASSED_ON = {"x-forwarded-host": "evil.test", "forwarded": "for=192.0.2.66;host=evil.test", "x-release-probe": "1"}


@pytest.fixture
def echo(secure: Shop) -> Iterator[Shop]:
    """In place of the application, what tells which headers reached it."""
    server, before = secure.server, secure.server.run("readlink /srv/pos/current").stdout.strip()
    server.put("/srv/echo/echo.py", ECHO)
    server.run("systemd-run -q --unit=echo -p UMask=0 python3 /srv/echo/echo.py")
    server.run("until [ -S /srv/echo/web.sock ]; do sleep 0.1; done; ln -sfn /srv/echo /srv/pos/current")
    try:
        yield secure
    finally:
        server.run(f"ln -sfn {before} /srv/pos/current && systemctl stop echo && rm -r /srv/echo")


def heard(answer: str) -> tuple[dict[str, str], bool]:
    """Headers that reached the application, and whether the release was named."""
    head, _, body = answer.replace("\r", "").partition("\n\n")
    found: dict[str, str] = json.loads(body)
    return found, "x-release:" in head.lower()


def claimed() -> list[str]:
    return [word for name, value in CLAIMS.items() for word in ("-H", f"{name}: {value}")]


def from_outside(server: Server) -> str:
    words = [
        "curl",
        "-skSi",
        "-m",
        "20",
        "--resolve",
        f"pos.test:443:{server.address}",
        "https://pos.test/",
        *claimed(),
    ]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_nobody_is_believed_who_he_says_he_is_but_the_server_and_its_named_proxies(echo: Shop) -> None:
    server = echo.server
    reached, is_named = heard(from_outside(server))
    assert not is_named
    assert reached["x-forwarded-proto"] == "https"
    assert reached["x-forwarded-for"] == reached["x-real-ip"] == server.link.outside
    assert not {name.lower() for name in CLAIMS} & set(reached) - {"x-forwarded-proto", "x-forwarded-for", "x-real-ip"}

    for place in (f"pos.test:443:{server.address}", "pos.test:443:127.0.0.1"):
        reached, is_named = heard(curl(server, "https://pos.test/", "--resolve", place, *claimed()))
        assert is_named
        assert PASSED_ON.items() <= reached.items()
        assert reached["x-forwarded-for"] != "192.0.2.66"

    echo.configure(f'{WITH_WWW}\n[nginx]\ntrusted_proxies = ["{server.link.outside}"]\n')
    echo.fab("provision", "--yes", timeout=400)
    try:
        reached, is_named = heard(from_outside(server))
    finally:
        echo.configure(WITH_WWW)
        echo.fab("provision", "--yes", timeout=400)
    assert is_named
    assert PASSED_ON.items() <= reached.items()
    assert (reached["x-forwarded-for"], reached["x-forwarded-proto"]) == ("192.0.2.66", "http")


def test_an_uploaded_page_is_shown_without_its_scripts(secure: Shop) -> None:
    server = secure.server
    server.put("/srv/pos/shared/media/evil.html", "<script>alert(1)</script>")
    page = curl(server, "https://pos.test/media/evil.html")
    assert "content-security-policy: sandbox\n" in page
    assert "x-content-type-options: nosniff\n" in page
    assert "strict-transport-security: max-age=86400\n" in page
    for url in ("https://pos.test/healthz", "https://pos.test/static/none.css"):
        assert "content-security-policy" not in curl(server, url)


def test_a_name_that_is_not_ours_is_answered(secure: Shop) -> None:
    """No page and no certificate, by name, by address or without a name."""
    to = f"other.test:443:{secure.server.address}"
    assert "unrecognized name" in curl(secure.server, "https://other.test/", "-k", "--resolve", to)
    assert "unrecognized name" in curl(secure.server, f"https://{secure.server.address}/", "-k")
    assert "Empty reply" in curl(secure.server, f"http://{secure.server.address}/", "-H", "Host: other.test")


def test_old_protocols_are_spoken(secure: Shop) -> None:
    say = "openssl s_client -cipher DEFAULT@SECLEVEL=0 -connect 127.0.0.1:443 -servername pos.test"
    spoken = [
        version
        for version in ("tls1", "tls1_1", "tls1_2", "tls1_3")
        if "Cipher is (NONE)" not in secure.server.run(f"{say} -{version} </dev/null 2>&1", check=False).stdout
    ]
    assert spoken == ["tls1_2", "tls1_3"]


PRIVATE = (
    *("/.env", "/.git/config", "/static/.env", "/static../manage.py", "/media../.env.production", "/shared/media/"),
    *("/static/..%2f..%2fshared/.env.production", "/media/%2e%2e/.env.production", "/current/manage.py"),
)


@pytest.mark.parametrize("path", PRIVATE)
def test_a_file_that_is_nobodys_business_is_served(secure: Shop, path: str) -> None:
    assert re.match(r"HTTP/2 40[034]", curl(secure.server, f"https://pos.test{path}"))


def test_a_second_run_asks_the_authority_again(secure: Shop) -> None:
    before = serial(secure.server)
    assert "nothing to do" in secure.fab("provision", "--yes").stderr
    assert different(secure) == set()
    assert serial(secure.server) == before


def test_a_renewed_certificate_is_never_shown(secure: Shop) -> None:
    """Five days before the end, what Debian's timer starts renews it, and its hook tells nginx."""
    timer = secure.server.run("systemctl show -P Triggers certbot.timer; systemctl is-enabled certbot.timer").stdout
    assert timer.split() == ["certbot.service", "enabled"]
    secure.server.run("python3 -", input=OLD)
    old = secure.server.run("openssl x509 -in /etc/letsencrypt/live/pos/cert.pem -noout -serial").stdout.strip()
    secure.server.run("systemctl start certbot.service", timeout=120)
    new = secure.server.run("openssl x509 -in /etc/letsencrypt/live/pos/cert.pem -noout -serial").stdout.strip()
    assert new != old
    assert different(secure) == set(), "the new one is not the one that is served"
    assert is_served(curl(secure.server, "https://pos.test/healthz"))


def test_a_renewal_that_stopped_working_is_not_noticed(secure: Shop) -> None:
    """Five days before the end --check says so, and a run mends it; fab check says at once that nothing renews."""
    secure.server.run("rm /etc/letsencrypt/renewal-hooks/deploy/fab-releases && systemctl disable -q certbot.timer")
    secure.server.run("python3 -", input=OLD)
    shown = secure.fab("provision", "--check", check=1).stdout
    assert "+not overdue" in shown
    assert "app1 look renewal: nothing renews the certificate" in secure.fab("check", check=None).stdout
    assert {"certificate", "served certificate", "unit certbot.timer"} <= different(secure)
    secure.fab("provision", "--yes")
    assert different(secure) == set()
    assert "app1 ok renewal: certbot.timer is on" in secure.fab("check", check=None).stdout
    assert is_served(curl(secure.server, "https://pos.test/healthz"))


def test_a_name_that_leads_elsewhere_breaks_the_ones_that_work(secure: Shop) -> None:
    """The authority refuses: its reason is told and https stays as it was. A name less is a new certificate."""
    before = serial(secure.server)
    secure.configure(CERTBOT.format(names='"www.pos.test", "nowhere.test"'))
    refused = secure.fab("provision", "--yes", check=1)
    assert "no such host" in refused.stderr
    assert serial(secure.server) == before
    assert is_served(curl(secure.server, "https://pos.test/healthz"))
    secure.configure(CERTBOT.format(names=""))
    secure.fab("provision", "--yes")
    named = secure.server.run("openssl x509 -in /etc/letsencrypt/live/pos/cert.pem -noout -ext subjectAltName").stdout
    assert "DNS:pos.test" in named
    assert "www" not in named
    secure.configure(WITH_WWW)
    secure.fab("provision", "--yes")


def test_a_deploy_does_not_get_through_its_own_front_door(secure: Shop) -> None:
    """Also for an application that sends everybody to https and says more about it than nginx does."""
    secure.server.run("echo HTTPS_ONLY=1 >>/srv/pos/shared/.env.production")
    before = secure.current()
    secure.fab("deploy", "--ref", "base", "--force")
    assert secure.current() != before
    page = curl(secure.server, "https://pos.test/")
    assert page.startswith("HTTP/2 200")
    said = re.findall("strict-transport-security: (.*)", page)
    assert said == ["max-age=31536000; includeSubDomains; preload"]
    secure.fab("maintenance", "on")
    closed = curl(secure.server, "https://pos.test/")
    secure.fab("maintenance", "off")
    assert closed.startswith("HTTP/2 503")
    assert "We will be back" in closed
    assert "retry-after: 60" in closed
    secure.fab("rollback", "--yes")
    assert secure.current() == before
    assert is_served(curl(secure.server, "https://pos.test/healthz"))


def test_a_scanner_finds_something_in_the_configuration(secure: Shop, tmp_path: Path) -> None:
    dump = tmp_path / "nginx.dump"
    dump.write_text(secure.server.run("nginx -T 2>/dev/null").stdout)
    words = [uv.find_uv_bin(), "tool", "run", "--from", "gixy-ng==0.2.59", "gixy", "--skips", EVIL, "--format", "json"]
    done = subprocess.run([*words, str(dump)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert json.loads(done.stdout) == [], done.stderr
