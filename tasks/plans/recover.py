"""A lost server: what is fetched from where backups were sent, and put in its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..model.call import call
from ..model.config import Host, Stage
from ..model.errors import UsageError
from ..model.plan import Phase, Plan, Step
from ..model.release import Release
from ..model.shell import Script, Secret, Word, script
from ..remote import variables
from ..remote.library import templates
from ..remote.machine import archive, stores
from ..remote.machine.stores import Offsite
from ..server.recover import database, left, roles, shared
from ..server.values import cluster


@dataclass(frozen=True)
class Loss:
    """What was lost, and where it is made again: the stage itself, or for a drill another one."""

    was: Stage
    """Whose backups they are."""
    here: Stage
    """Whose servers these are."""
    hosts: tuple[str, ...]
    """Of `here`: those that were lost; the others live, and are not touched."""

    @property
    def is_drill(self) -> bool:
        return self.was.name != self.here.name

    @property
    def application(self) -> Host | None:
        """Where files and releases come back."""
        return self.here.primary if self.here.primary.name in self.hosts else None

    @property
    def database(self) -> Host | None:
        """Where the database comes back; None: it lives elsewhere, or is not ours."""
        host = self.here.database_host
        return host if self.here.has_postgresql and host.name in self.hosts else None


def sound(loss: Loss) -> None:
    """UsageError for what would lose something or could not work."""
    here = loss.here
    if not loss.application and not loss.database:
        raise UsageError(
            f"{', '.join(loss.hosts)}: nothing was there that is nowhere else",
            f"fab -H {loss.hosts[0]} provision, then fab -H {loss.hosts[0]} deploy --ref with the commit that is live",
        )
    if loss.database and any(one.name not in loss.hosts for one in here.replicas):
        raise UsageError(
            f"{here.replicas[0].name} follows the database that was lost, and has what no backup has",
            "let it take over (docs/how-to/run-several-servers.md); if it is lost as well, name it with -H",
        )
    if not loss.is_drill:
        return
    if not here.recover.variables:
        raise UsageError(
            f"[stages.{here.name}.recover] variables is not set: with the variables of {loss.was.name}, a drill would "
            "write to its customers and take their money",
            'variables = { EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend" }, and what else '
            "speaks to somebody",
        )
    if here.backup.enabled and here.backup.repository:
        raise UsageError(
            f"stage {here.name} sends backups to {here.backup.repository}: what a drill has is none",
            f'set [stages.{here.name}.backup] repository = "", or enabled = false',
        )
    if here.is_archived:
        raise UsageError(
            f"stage {here.name} archives its database: in a place that it shares with {loss.was.name}, it would go on "
            "with the archive of the lost one",
            f'set [stages.{here.name}.backup] engine = "dump"',
        )
    if not loss.application:
        raise UsageError("a drill begins with the host that migrates", f"name {here.primary.name} with -H as well")
    if not here.environment.file or here.environment.format == "none":
        raise UsageError("without a file of variables that can be read, nothing can be switched off", "[environment]")
    theirs = {(one.address, one.port) for one in loss.was.hosts}
    if same := [one.name for one in here.hosts if (one.address, one.port) in theirs]:
        raise UsageError(
            f"{', '.join(same)} is a server of stage {loss.was.name} as well", "a drill needs servers of its own"
        )


def is_bare(loss: Loss, host: str) -> Script:
    bare = script(("is_bare",))
    if loss.database and loss.database.name == host:
        return bare + script(call(database.is_free, loss.here.known_as))
    return bare


def fetching(loss: Loss, offsite: Offsite, snapshot: str) -> Plan:
    """Answers facts of the application's host: release (as release.json; of the database's host where it alone was
    lost: none), and of both: snapshot (when it was taken).
    """
    was = loss.was
    repository: tuple[Word, ...] = (was.backup.repository, offsite.key, offsite.variables)
    restic = Step("restic", "Install what fetches", script(("make_packages", "restic", "ca-certificates")))
    clean = script(("forget_recovered",))
    steps: dict[str, tuple[Step, ...]] = {}
    if loss.application:
        fetch = clean + script(("fetch_snapshot", *repository, was.known_as, snapshot))
        if _is_apart(was) and loss.database == loss.application:
            fetch += script(("fetch_own", *repository, f"{was.known_as}-database", f"{_facts(was)}/postgresql.json"))
        told = script(("tell_release", was.known_as))
        steps[loss.application.name] = (
            restic,
            Step("fetch", f"Fetch {snapshot} from {was.backup.repository}", fetch + told),
        )
        if loss.database and was.is_archived and snapshot == "latest":
            title = f"Look how far the archive in {was.backup.archive} goes"
            steps[loss.application.name] += (Step("archive", title, _look_archive(loss, offsite)),)
    if loss.database and loss.database != loss.application:
        # Its own snapshot is the newest there is; the dumps are in that of the host that migrates.
        own = script(("fetch_own", *repository, f"{was.known_as}-database")) if _is_apart(was) else Script()
        dumps = str(was.layout.dumps)
        there = (dumps,) if _is_apart(was) else (dumps, _facts(was))
        fetch = clean + script(("fetch_snapshot", *repository, was.known_as, snapshot, *there)) + own
        steps[loss.database.name] = (restic, Step("fetch", f"Fetch {snapshot} from {was.backup.repository}", fetch))
    return _plan(loss, "fetch", "Fetch what was sent away", steps)


def preparing(loss: Loss) -> Plan:
    """Nothing was touched until here."""
    host = loss.application
    steps: dict[str, tuple[Step, ...]] = {}
    if host:
        steps[host.name] = (Step("before", "Put back what provisioning builds on", _before(loss, host)),)
    if host and loss.database == host and loss.here.is_archived:
        own = Step("cluster", "Make PostgreSQL its own", script(("make_own_cluster", loss.was.known_as)))
        steps[host.name] += (own,)
    return _plan(loss, "prepare", "Prepare the server", steps)


def _look_archive(loss: Loss, offsite: Offsite) -> Script:
    """Answers facts: dump (when the newest was taken), archive (as templates/provision/lost_archive.py says it)."""
    was = loss.was
    texts = ((templates() / "provision" / name).read_text() for name in ("lost_archive.py", "pgbackrest.py"))
    place = (was.backup.archive_folder, "\n".join(archive.repository(was)), archive.opener(was, offsite))
    return script(
        call(database.look, dumps=str(was.layout.dumps), database=loss.here.known_as),
        ("look_lost_archive", was.known_as, *place, archive.KEY, *texts, cluster.QUERY),
    )


def _is_apart(stage: Stage) -> bool:
    return stage.database_host != stage.primary


def _facts(stage: Stage) -> str:
    return f"/var/lib/fab-releases/offsite/{stage.known_as}"


def _before(loss: Loss, host: Host) -> Script:
    """Keys, because provisioning would make others; clock and language, because databases are made with them."""
    keys = script(
        ("make_account", host.user, "login"),
        call(shared.restore_keys, was=loss.was.primary.user, user=host.user, logins=not loss.is_drill),
    )
    clock = script(("recovered_clock_and_language",))
    if loss.is_drill:
        return keys + clock
    tls = loss.was.tls
    given = [tls.fullchain, tls.key] if tls.certificate == "files" else []
    if loss.was.is_archived:
        given.append(archive.KEY)  # an archive on a disk that outlived the server opens with it
    return keys + clock + script(("recovered_certificates",), call(shared.restore_own_files, paths=tuple(given)))


def read_environment(loss: Loss) -> Script:
    """Of the lost server, on the host that has it: what the call returns is a Secret, or None."""
    was = loss.was
    return script(call(shared.read_environment, str(was.layout.shared / was.environment.file)))


def filling(loss: Loss, release: Release | None, *, from_archive: bool) -> Plan:
    """Answers facts: files (how many are in shared), database (the name of the backup), moment (the last second of it,
    with `from_archive`).
    """
    steps: dict[str, tuple[Step, ...]] = {}
    if loss.application and release:
        files = Step("files", "Put files back", _files(loss, loss.application, release))
        steps[loss.application.name] = (files,)
    if loss.database:
        name = loss.database.name
        taken: tuple[Step, ...] = ()
        if from_archive and release:
            was = loss.was
            take = script(
                ("take_lost_archive", was.known_as, was.layout.dumps, release.id, was.backup.archive_folder),
                call(database.count_in, dumps=str(was.layout.dumps), database=loss.here.known_as),
            )
            taken = (Step("archive", "Take the database from the archive, as it was last", take),)
        steps[name] = (*taken, *_database(loss, loss.database), *steps.get(name, ()))
    return _plan(loss, "fill", "Put back what was lost", steps)


def _files(loss: Loss, host: Host, release: Release) -> Script:
    was, here = loss.was, loss.here
    called = {was.primary.user: host.user, was.app_user: here.app_user}
    left_out = [was.environment.file, here.environment.file, ".env.versions"] if loss.is_drill else []
    asked = tuple(one for one in left_out or [was.environment.file] if one)
    there, user = str(was.layout.shared), host.user
    said = script(
        call(shared.restore_files, there=there, called=called, user=user, otherwise=here.app_user, left_out=asked),
        call(
            shared.restore_requirements,
            application=was.known_as,
            commit=release.sha,
            was=release.python,
            python=here.python.version,
            user=user,
        ),
    )
    if loss.is_drill:
        return said
    history = call(shared.restore_history, dumps=str(was.layout.dumps), private=str(was.layout.private), user=user)
    return said + script(history, ("recovered_crontabs", user, here.app_user))


def _database(loss: Loss, host: Host) -> tuple[Step, ...]:
    """Clients run as the account that deploys: it has the dumps and the password of the role anyway."""
    was, here = loss.was, loss.here
    made = call(roles.restore, application=was.known_as, passwords=not loss.is_drill)
    filled = call(
        database.restore,
        dumps=str(was.layout.dumps),
        facts_of=was.known_as,
        account=host.user if host.user != "root" else "nobody",
        owner=here.known_as,
        rename=loss.is_drill,
        extensions=here.provision.extensions,
    )
    return (
        Step("roles", "Put roles back", script(made)),
        Step("database", "Restore the database as the role that owns it, count its rows", script(filled)),
    )


def remaining(loss: Loss, host: str) -> Script:
    """Answers marks "remains": what, names, how. For a drill nothing remains: what it fetched is removed."""
    was, here = loss.was, loss.here
    there, not_back = was.layout.deploy_to, Script()
    if loss.database and loss.database.name == host:
        not_back = script(call(left.tell))
    if loss.is_drill:
        return not_back + script(("tidy_recovered", there, "all"))
    user = here.host(host).user
    return not_back + script(("tell_remaining", was.known_as, user, here.app_user), ("tidy_recovered", there, ""))


def fetched_on(loss: Loss) -> Iterable[str]:
    """Names of the hosts that have something of the snapshot."""
    return dict.fromkeys(host.name for host in (loss.application, loss.database) if host)


def environment_of_drill(loss: Loss, lost: str, own: stores.Seeds) -> str:
    """The lost server's file with what this stage's own first one says, and then what `[recover] variables` says.

    FailedError where the file cannot say it.
    """
    here, text = loss.here, lost
    first = stores.first_environment(here, own)
    said = dict(line.split("=", 1) for line in first.splitlines() if line and not line.startswith("#"))
    for name, value in {**said, **here.recover.variables}.items():
        text = variables.with_value(text, here.environment.format, name, Secret(value))
    return text


def carried_over(loss: Loss, lost: str, made: str) -> list[str]:
    """Names of the variables that say on the drill's servers what they said on the lost one's."""
    dialect = loss.here.environment.format
    before, after = (variables.read(text, dialect, "the environment file") for text in (lost, made))
    return sorted(variables.nameable(made, dialect) & {name for name in before if after.get(name) == before[name]})


def not_as_asked(loss: Loss, text: str) -> list[str]:
    """Names of the variables that a file which is there already says otherwise than `[recover] variables`."""
    found = variables.read(text, loss.here.environment.format, "the environment file")
    return [name for name, value in loss.here.recover.variables.items() if found.get(name) != value]


def _plan(loss: Loss, name: str, title: str, steps: dict[str, tuple[Step, ...]]) -> Plan:
    return Plan("recover", loss.here.name, tuple(steps), (Phase(name, title, steps),))
