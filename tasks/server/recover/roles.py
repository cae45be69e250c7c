"""Roles of the lost cluster, made again from what it said of them as values: no statement of it is said again."""

from __future__ import annotations

import json
from typing import Any

from .. import postgres, telling
from ..exported import exported
from ..values.site import Site
from . import fetched, left
from .settings import APPLY, split

# One transaction: a role without its password must not be taken for one that is complete.
MAKE = f"""\
begin;
{postgres.TAKE_GIVEN}
create temporary table refused (what text) on commit drop;
do $do$
declare
  given json := current_setting('fab.given')::json;
  made json;
  one json;
  whom text;
  options text;
begin
  for made in select json_array_elements(given -> 'roles') loop
    continue when exists (select from pg_roles where rolname = (made ->> 'name')::name);
    select string_agg(case when (made ->> word)::bool then word else 'no' || word end, ' ') into options
      from unnest('{{superuser,inherit,createrole,createdb,login,replication,bypassrls}}'::text[]) word;
    execute format('create role %I %s connection limit %s password %L', made ->> 'name', options,
      (made ->> 'connections')::int, made ->> 'password');
    if made ->> 'until' is not null then
      execute format('alter role %I valid until %L', made ->> 'name', made ->> 'until');
    end if;
    execute format('comment on role %I is %L', made ->> 'name', made ->> 'comment');
  end loop;
  for one in select json_array_elements(given -> 'members') loop
    options := case when (one ->> 'admin')::bool then ' with admin option' else '' end;
    if current_setting('server_version_num')::int >= 160000 and one ->> 'set' is not null then
      options := format(' with admin %s, inherit %s, set %s', (one ->> 'admin')::bool,
        (one ->> 'inherit')::bool, (one ->> 'set')::bool);
    end if;
    begin
      execute format('grant %I to %I', one ->> 'role', one ->> 'member') || options;
    exception when others then
      insert into refused values (format('grant %I to %I', one ->> 'role', one ->> 'member'));
    end;
  end loop;
  for one in select json_array_elements(given -> 'settings') loop
    whom := case when one ->> 'role' is null then 'role all' else format('role %I', one ->> 'role') end;
    begin{APPLY}
    exception when others then
      insert into refused values (format('alter %s set %I', whom, one ->> 'name'));
    end;
  end loop;
end
$do$;
select coalesce(json_agg(what), '[]') from refused;
commit;
"""


@exported
def restore(site: Site, application: str, passwords: bool) -> None:
    """Those that provisioning makes are as it made them; of the others everything comes back, `passwords` where asked
    for.
    """
    found = fetched.facts(application)
    if not found:
        telling.warn(
            f"what PostgreSQL said of its roles is not in the snapshot: roles other than {application}, and what only "
            "they own or may see, are not restored"
        )
        return
    roles = [{**one, "password": one["password"] if passwords else None} for one in found["roles"]]
    given = {"roles": roles, "members": found["members"], "settings": _settings(found["settings"])}
    refused = json.loads(postgres.superuser(MAKE, given=given))
    left.note(site, "roles", [f"{one};" for one in refused])
    left.note(site, "tablespaces", found["tablespaces"])


def _settings(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of roles in every database; those of a database come with it."""
    return [
        {"role": one["role"], **setting}
        for one in found
        if one["database"] is None
        for setting in split(one["settings"])
    ]
