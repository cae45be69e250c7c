"""What a PostgreSQL must say of itself so that another can be made like it: as one JSON object, never as statements.

Names and settings may hold any character, and whoever owns a role or a database chooses many of them.
"""

QUERY = """\
select json_build_object(
'roles', (select coalesce(json_agg(json_build_object('name', rolname, 'superuser', rolsuper, 'inherit', rolinherit,
    'createrole', rolcreaterole, 'createdb', rolcreatedb, 'login', rolcanlogin, 'replication', rolreplication,
    'bypassrls', rolbypassrls, 'connections', rolconnlimit, 'password', rolpassword, 'until', rolvaliduntil,
    'comment', shobj_description(oid, 'pg_authid')) order by rolname), '[]')
    from pg_authid where oid >= 16384),
'members', (select coalesce(json_agg(json_build_object('role', r.rolname, 'member', u.rolname, 'admin', admin_option,
    'inherit', to_jsonb(m) -> 'inherit_option', 'set', to_jsonb(m) -> 'set_option')), '[]')
    from pg_auth_members m join pg_authid r on r.oid = m.roleid join pg_authid u on u.oid = m.member
    where u.oid >= 16384),
'settings', (select coalesce(json_agg(json_build_object('role', r.rolname, 'database', d.datname,
    'settings', to_json(setconfig))), '[]')
    from pg_db_role_setting s left join pg_roles r on r.oid = setrole left join pg_database d on d.oid = setdatabase
    where setrole = 0 or setrole >= 16384),
'databases', (select coalesce(json_agg(json_build_object('name', datname, 'owner', pg_get_userbyid(datdba),
    'encoding', pg_encoding_to_char(encoding), 'collate', datcollate, 'ctype', datctype,
    'provider', to_jsonb(d) ->> 'datlocprovider',
    'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
    'connections', datconnlimit, 'comment', shobj_description(oid, 'pg_database'), 'has_grants', datacl is not null,
    'grants', (select coalesce(json_agg(json_build_object('privilege', privilege_type, 'grantable', is_grantable,
        'to', case grantee when 0 then null else pg_get_userbyid(grantee) end)), '[]') from aclexplode(datacl)))), '[]')
    from pg_database d where not datistemplate),
'tablespaces', (select coalesce(json_agg(spcname order by spcname), '[]') from pg_tablespace where oid >= 16384))
"""
"""For a superuser in the database `postgres`, with `search_path = pg_catalog`; it holds what proves passwords."""
