"""Words that both sides use of a server."""

WEB_SERVER = "www-data"
"""Whom nginx's workers run as (templates/nginx/nginx.conf.j2), and its group."""
EVERY_NAME = "every name"
"""What a site answers to whose stage has no domain."""
