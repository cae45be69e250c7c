"""Roles and the database of an application, with no more rights than it needs: made of values, by a superuser."""

from __future__ import annotations

from .. import postgres
from ..exported import exported
from ..values.secret import Secret
from ..values.site import Site

# Said last: a role that may log in looks complete.
APPLICATION = 'alter role :"role" login createdb nosuperuser nocreaterole noreplication;\n'
REPLICATOR = 'alter role :"role" login replication nosuperuser nocreaterole nocreatedb;\n'
# scram keeps a password out of the catalogue.
PASSWORD = f"""\
begin;
{postgres.TAKE_GIVEN}
set local password_encryption = 'scram-sha-256';
do $do$
declare
  given json := current_setting('fab.given')::json;
begin
  execute format('alter role %I password %L', given ->> 'role', given ->> 'password');
end
$do$;
commit;
"""
IS_ROLE = "select count(*) from pg_roles where rolname = :'role';\n"
IS_DATABASE = "select count(*) from pg_database where datname = :'name';\n"
CREATE = """\
create database :"name" owner :"owner" encoding 'UTF8' lc_collate 'C.UTF-8' lc_ctype 'C.UTF-8' template template0;
"""
OWN = """\
alter database :"name" owner to :"owner";
revoke connect on database :"name" from public;
"""


@exported
def application_role(site: Site, role: str, password: Secret) -> None:  # noqa: ARG001
    """It may make databases, which restores beside the live one need. "" leaves the password it has."""
    _exists(role)
    # Set again, it would be kept in other words, and what compares them (pgBouncer) would not know it.
    if password.value and not postgres.lets_in(role, password.value):
        _has_password(role, password)
    postgres.superuser(APPLICATION, role=role)


@exported
def replicator(site: Site, role: str, password: Secret) -> None:  # noqa: ARG001
    _exists(role)
    _has_password(role, password)
    postgres.superuser(REPLICATOR, role=role)


@exported
def watcher(site: Site, role: str) -> None:  # noqa: ARG001
    """A role without any right, by which the account that deploys may ask how far copies are."""
    if not _is(IS_ROLE, role=role):
        postgres.superuser('create role :"role" login;\n', role=role)


@exported
def database(site: Site, name: str, owner: str) -> None:  # noqa: ARG001
    """UTF8 whatever the cluster was made with."""
    if not _is(IS_DATABASE, name=name):
        postgres.superuser(CREATE, name=name, owner=owner)
    postgres.superuser(OWN, name=name, owner=owner)


def _exists(role: str) -> None:
    if not _is(IS_ROLE, role=role):
        postgres.superuser('create role :"role";\n', role=role)


def _has_password(role: str, password: Secret) -> None:
    postgres.superuser(PASSWORD, given={"role": role, "password": password.value})


def _is(text: str, **names: str) -> bool:
    return postgres.superuser(text, **names).strip() != "0"
