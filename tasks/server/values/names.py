"""Words that both sides use of a server."""

WEB_SERVER = "www-data"
"""Whom nginx's workers run as (templates/nginx/nginx.conf.j2), and its group."""
REDIS_PORT = 6379
"""Where Debian's own Redis listens."""
EVERY_NAME = "every name"
"""What a site answers to whose stage has no domain."""
