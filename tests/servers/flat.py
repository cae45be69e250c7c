"""A server as scripts make it: a checkout that is pulled in place, its environment, uploads and variables inside."""

from __future__ import annotations

from pathlib import Path

from .server import Server
from .shop import ENVIRONMENT, fill

CHECKOUT = "/var/www/pos/backend"
UNITS = ("pos-web.service", "pos-celery.service", "pos-beat.service")
"""The last one has the name that a unit of ours has as well."""
UNIT = """\
[Unit]
Description=flat {what}
After=network.target postgresql.service redis-server.service
[Service]
User=deploy
Group=www-data
WorkingDirectory={checkout}
EnvironmentFile={checkout}/.env.production
Environment=DJANGO_SETTINGS_MODULE=pos.settings
ExecStart={checkout}/venv/bin/{command}
Restart=always
[Install]
WantedBy=multi-user.target
"""
COMMANDS = {
    "web": "gunicorn pos.wsgi:application --workers 2 --threads 4 --bind unix:{checkout}/gunicorn.sock",
    "celery": "celery -A pos worker -l info --concurrency 1 -Q celery,reports",
    "beat": "celery -A pos beat -l info",
}
SITE = """\
server {{
    listen 80;
    server_name pos.test localhost 127.0.0.1;
    location /static/ {{ alias {checkout}/staticfiles/; }}
    location /media/ {{ alias {checkout}/media/; }}
    location / {{
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_pass http://unix:{checkout}/gunicorn.sock;
    }}
}}
"""
RELEASES_TOML = """\
[provision]
adopt = "{checkout}"
adopt_services = ["pos-web.service", "pos-celery.service", "pos-beat.service"]
postgresql = false
redis = false
firewall = false
logs = false
"""


def make_flat(server: Server, origin: Path) -> None:
    """Serves the tag `base` on port 80, with a worker, a beat, two uploads and a change that nobody committed."""
    fill(server, origin)
    server.run(
        "until pg_isready -q; do sleep 0.1; done; "
        """psql -qc "create role pos login createdb password 'pos'" -c "create database pos owner pos" """,
        user="postgres",
    )
    server.run(f"install -d -o deploy -g www-data {CHECKOUT}")
    server.run(
        f"git clone -q -b base /srv/git/pos.git {CHECKOUT} 2>/dev/null && cd {CHECKOUT} && "
        "python3 -m venv --without-pip venv && uv pip install -q --python venv/bin/python -r requirements.txt && "
        "mkdir -p media/receipts && echo one >media/receipts/1.txt && head -c 300000 /dev/urandom >media/photo.jpg && "
        "echo '# patched on the server' >> pos/views.py && echo secret > local_notes.txt && chmod 600 local_notes.txt",
        user="deploy",
        timeout=240,
    )
    server.put(
        f"{CHECKOUT}/.env.production",
        ENVIRONMENT.format(secret="canary", database="127.0.0.1"),
        mode=0o600,
        owner="deploy:www-data",
    )
    server.run(
        f"cd {CHECKOUT} && set -a && . ./.env.production && export DJANGO_SETTINGS_MODULE=pos.settings && "
        "venv/bin/python manage.py migrate -v 0 && venv/bin/python manage.py collectstatic --noinput -v 0",
        user="deploy",
        timeout=240,
    )
    for what, command in COMMANDS.items():
        text = UNIT.format(what=what, checkout=CHECKOUT, command=command.format(checkout=CHECKOUT))
        server.put(f"/etc/systemd/system/pos-{what}.service", text)
    server.put("/etc/nginx/sites-available/backend", SITE.format(checkout=CHECKOUT))
    server.run(
        "ln -s /etc/nginx/sites-available/backend /etc/nginx/sites-enabled/ && rm /etc/nginx/sites-enabled/default && "
        f"nginx -q -t && systemctl daemon-reload && systemctl enable -q --now {' '.join(UNITS)} && "
        "systemctl reload-or-restart nginx"
    )
