"""Extensions that only a superuser may create: made in the application's database, and in a template beside it.

The script of an extension runs as a superuser and finds functions and operators in the schema it is put in: one that
somebody else left there would be called as a superuser. Into the application's database it goes only while there are
none in that schema, and nobody can make one meanwhile. In the template there is nothing of anybody's; a restore begins
with a copy of it, so that its extensions are there before anything of the application's is.
"""

from __future__ import annotations

from . import postgres, telling
from .exported import exported
from .postgres import MAINTENANCE
from .refused import Refused
from .values.site import Site

THERE = """\
select extname from pg_extension where extname = any (string_to_array(:'wanted', ','))
"""
IS_THERE = "select datname from pg_database where datname = :'live'"
STRANGER = """\
select rolname from pg_database join pg_roles r on r.oid = datdba where datname = :'live' and not rolsuper
"""
TEMPLATE = """\
select format('create database %I template template0 encoding %L lc_collate %L lc_ctype %L', :'template',
    pg_encoding_to_char(encoding), datcollate, datctype)
  || case to_json(d) ->> 'datlocprovider' when 'i' then format(' locale_provider icu icu_locale %L',
      coalesce(to_json(d) ->> 'datlocale', to_json(d) ->> 'daticulocale'))
    when 'b' then format(' locale_provider builtin builtin_locale %L', to_json(d) ->> 'datlocale') else '' end
from pg_database d where datname = :'live'
and not exists (select from pg_database where datname = :'template') \\gexec
revoke all on database :"template" from public;
alter database :"template" is_template true;
"""
CREATE = """\
begin;
lock table pg_proc, pg_operator, pg_cast in share mode;
select set_config('fab.wanted', :'wanted', true) \\g /dev/null
do $do$
declare
  missing text[] := array(select name from unnest(string_to_array(current_setting('fab.wanted'), ','))
    with ordinality as w (name, place) where name not in (select extname from pg_extension) order by place);
  strangers text;
  one text;
begin
  select string_agg(what, ', ') into strangers from (
    select 'function ' || proname as what from pg_proc p where pronamespace = 'public'::regnamespace
      and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype = 'e')
    union all select 'operator ' || oprname from pg_operator o where oprnamespace = 'public'::regnamespace
      and not exists (select from pg_depend where classid = 'pg_operator'::regclass and objid = o.oid and deptype = 'e')
    union all select 'cast to ' || casttarget::regtype from pg_cast c where oid >= 16384
      and not exists (select from pg_depend where classid = 'pg_cast'::regclass and objid = c.oid and deptype = 'e')
    limit 3) as found;
  if cardinality(missing) > 0 and strangers is not null then
    raise 'its schema public has %, which scripts of extensions could call as a superuser', strangers;
  end if;
  foreach one in array missing loop
    execute format('create extension if not exists %I with schema public cascade', one);
  end loop;
end
$do$;
commit;
"""
HOW_ELSE = (
    "fab restore-db --date latest puts the database into a copy of the template, which has them; or drop these first"
)


@exported
def look(_: Site, name: str, database: str, wanted: tuple[str, ...]) -> None:
    """Tells a line for each that is there, in the database and in its template."""
    lines = []
    for place, title in ((database, "database"), (template_of(database), "template")):
        if _superuser(IS_THERE, MAINTENANCE, live=place):
            there = _superuser(THERE, place, wanted=",".join(wanted)).split()
            lines += [f"{one} in the {title}" for one in wanted if one in there]
    telling.found(name, "\n".join(lines))


@exported
def make(_: Site, database: str, wanted: tuple[str, ...]) -> None:
    template = template_of(database)
    if stranger := _superuser(STRANGER, MAINTENANCE, live=template):
        raise Refused(f"the database {template} belongs to {stranger}, and copies would begin with it", "rename it")
    _superuser(TEMPLATE, MAINTENANCE, live=database, template=template)
    for place in (template, database):
        try:
            _superuser(CREATE, place, wanted=",".join(wanted))
        except Refused as no:
            hint = HOW_ELSE if "could call as a superuser" in no.message else no.hint
            raise Refused(f"the extensions {', '.join(wanted)} are not in {place}: {no.message}", hint) from None


def template_of(database: str) -> str:
    """Restores know it by this name, and by whose it is: a superuser's."""
    return f"{database}_template"


def _superuser(text: str, database: str, **names: str) -> str:
    """In the application's database nothing of its own is called: see above."""
    try:
        return postgres.superuser(text, database=database, **names).strip()
    except Refused as no:
        raise Refused(no.message, "PostgreSQL's log says more; is its package in [provision] packages?") from None
