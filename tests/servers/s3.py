"""Storage that speaks S3 over https, on a test server of its own: it checks signatures and who may do what."""

from __future__ import annotations

from dataclasses import dataclass

from .server import Server

MOTO = "moto[server]==5.2.5"
PORT = 9000
INNER = 9001
NAME = "s3.test"
INSTALL = f"""
uv venv --quiet /srv/s3
uv pip install --quiet --python /srv/s3/bin/python '{MOTO}'
cd /srv/s3
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 30 \
  -subj "/CN={NAME}" -addext "subjectAltName=DNS:{NAME}" 2>/dev/null
"""
# nginx speaks TLS for it: the one of a development server breaks off where pgBackRest expects a farewell.
FRONT = f"""
server {{
  listen {PORT} ssl;
  ssl_certificate /srv/s3/cert.pem;
  ssl_certificate_key /srv/s3/key.pem;
  client_max_body_size 0;
  location / {{
    proxy_pass http://127.0.0.1:{INNER};
    proxy_set_header Host $http_host;
    proxy_request_buffering off;
  }}
}}
"""
START = f"""
systemd-run --quiet --unit=s3 --working-directory=/srv/s3 --setenv=INITIAL_NO_AUTH_ACTION_COUNT=$1 \
  --setenv=S3_IGNORE_SUBDOMAIN_BUCKETNAME=true /srv/s3/bin/moto_server -H 127.0.0.1 -p {INNER}
systemctl restart nginx
for attempt in $(seq 300); do curl -skf https://127.0.0.1:{PORT}/moto-api/ >/dev/null && exit; sleep 0.1; done
journalctl --unit s3 >&2
exit 1
"""
# The first few questions need no key: whoever may do all in the buckets is made with them.
BEGIN = f"""
import json, sys
import boto3

said = dict(endpoint_url="https://127.0.0.1:{PORT}", verify=False, region_name="us-east-1")
said |= dict(aws_access_key_id="nobody", aws_secret_access_key="nothing")
iam, s3 = boto3.client("iam", **said), boto3.client("s3", **said)
iam.create_user(UserName="pos")
key = iam.create_access_key(UserName="pos")["AccessKey"]
allowed = {{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
policy = json.dumps({{"Version": "2012-10-17", "Statement": [allowed]}})
iam.put_user_policy(UserName="pos", PolicyName="all", PolicyDocument=policy)
for bucket in sys.argv[1:]:
    s3.create_bucket(Bucket=bucket)
print(key["AccessKeyId"], key["SecretAccessKey"])
"""


@dataclass(frozen=True)
class Storage:
    server: Server
    url: str
    """Before the name of a bucket: "https://s3.test:9000"."""
    key: str
    secret: str

    @property
    def variables(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def trusted_by(self, server: Server) -> None:
        """Known to `server` by its name; its certificate is one of those believed there, besides those that are."""
        server.run(f"grep -q '{NAME}$' /etc/hosts || echo '{self.server.address} {NAME}' >>/etc/hosts")
        server.put("/etc/ssl/certs/s3.pem", self.server.run("cat /srv/s3/cert.pem").stdout)
        server.run(
            "cd /etc/ssl/certs && cat s3.pem >>ca-certificates.crt && "
            "ln -sf s3.pem $(openssl x509 -hash -noout -in s3.pem).0"
        )

    def doubted_by(self, server: Server) -> None:
        """Undo of `trusted_by`."""
        server.run(
            "cd /etc/ssl/certs && head -c -$(stat -c %s s3.pem) ca-certificates.crt >left && "
            "cat left >ca-certificates.crt && rm left $(openssl x509 -hash -noout -in s3.pem).0 s3.pem"
        )


def begin(server: Server, *buckets: str) -> Storage:
    """Serve empty `buckets` from `server`, in its memory: a reboot forgets them. Takes some seconds."""
    server.run(INSTALL, timeout=300)
    server.put("/etc/nginx/conf.d/s3.conf", FRONT)
    server.run(f"set -- {len(buckets) + 3}\n{START}", timeout=60)
    told = server.run(f"/srv/s3/bin/python -W ignore - {' '.join(buckets)}", input=BEGIN, timeout=60).stdout
    key, secret = told.split()
    return Storage(server, f"https://{NAME}:{PORT}", key, secret)
