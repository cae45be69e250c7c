"""One git repository with a good revision of the example application, and a tag for each way a revision can go wrong.

    python examples/revisions.py DIR       make the repository: `main` and the tag `base` are the application as it is
    python examples/revisions.py --list    what each tag is for

Every other tag is one commit on top of `base`. Authors and dates are fixed, so the same files give the same shas.
`git -C DIR reset --hard TAG` moves `main` to a tag, as if somebody had pushed it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

APPLICATION = Path(__file__).resolve().parent / "pos"
NOT_OURS = {"__pycache__", ".venv", ".ruff_cache", ".env", "media", "staticfiles"}
FIRST_COMMIT = 1_767_225_600  # 2026-01-01 00:00:00 UTC; each revision is a minute later than the one before

Tree = dict[str, str]
Edit = Callable[[Tree], None]


@dataclass(frozen=True)
class Revision:
    """One tag: what is the matter with it, and the edits that make it so."""

    tag: str
    says: str
    edits: tuple[Edit, ...]


def replace(path: str, old: str, new: str) -> Edit:
    """Raises ValueError unless `old` is in the file exactly once."""

    def edit(tree: Tree) -> None:
        if (found := tree[path].count(old)) != 1:
            raise ValueError(f"{path} has {found} of {old!r}, not 1")
        tree[path] = tree[path].replace(old, new)

    return edit


def add(path: str, text: str) -> Edit:
    """Raises ValueError when the file is there."""

    def edit(tree: Tree) -> None:
        if path in tree:
            raise ValueError(f"{path} is already there")
        tree[path] = text

    return edit


def migration(app: str, after: str, name: str, *operations: str, code: str = "", atomic: bool = True) -> Edit:
    lines = [
        "from django.db import migrations, models",
        *([code] if code else []),
        "",
        "class Migration(migrations.Migration):",
        *([] if atomic else ["    atomic = False"]),
        f'    dependencies = [("{app}", "{after}")]',
        "    operations = [",
        *(f"        {operation}," for operation in operations),
        "    ]",
    ]
    return add(f"{app}/migrations/{name}.py", "\n".join(lines) + "\n")


def move_into(directory: str, keep: set[str]) -> Edit:
    def edit(tree: Tree) -> None:
        moved = {path if path in keep else f"{directory}/{path}": text for path, text in tree.items()}
        tree.clear()
        tree.update(moved)

    return edit


SETTINGS, VIEWS, URLS, WSGI = "pos/settings.py", "pos/views.py", "pos/urls.py", "pos/wsgi.py"
PAGE, STYLE, HEALTH = "pos/templates/pos/index.html", "pos/static/pos/site.css", "pos/health.py"

HUMANIZE = r"""humanize==4.17.0 \
    --hash=sha256:02d0899527760efe18011944f882df4970943b4cdff7b5a0ba7fed43a576ef98 \
    --hash=sha256:1d6a36c453dbfbb3f0b34601d2e0b4ce5d48d780305cd45714843f0068fde6ac
    # via -r requirements.in
"""

NOTE = "    note = models.CharField(max_length=200, blank=True)\n"
SALE_FIELDS = '        fields = ("uid", "product", "quantity", "total", "note", "sold_at")\n'
PRODUCT_NAME = "    name = models.CharField(max_length=120)\n"

SHELF = replace(
    "inventory/models.py",
    PRODUCT_NAME,
    PRODUCT_NAME + '    shelf = models.CharField(max_length=20, null=True, blank=True, db_default="A1")\n',
)
SUPPLIER = replace(
    "inventory/models.py",
    PRODUCT_NAME,
    PRODUCT_NAME + "    supplier = models.CharField(max_length=80, null=True, blank=True)\n",
)
TILL = (
    replace("sales/models.py", NOTE, NOTE + '    till = models.CharField(max_length=20, default="till-1")\n'),
    replace("sales/api.py", SALE_FIELDS, SALE_FIELDS.replace('"note"', '"note", "till"')),
)
ADD_SHELF = (
    'migrations.AddField("product", "shelf", models.CharField(max_length=20, null=True, blank=True, db_default="A1"))'
)
ADD_SUPPLIER = 'migrations.AddField("product", "supplier", models.CharField(max_length=80, null=True, blank=True))'
ADD_TILL = 'migrations.AddField("sale", "till", models.CharField(max_length=20, default="till-1"))'
FAIL = 'migrations.RunSQL("UPDATE tills SET name = name")'  # there is no such table

ROUND_PRICES = """

def round_prices(apps, schema_editor):
    for product in apps.get_model("inventory", "Product").objects.all():
        product.price = round(product.price)
        product.save()
"""
TAKE_LONG = """
import os
import time


def take_long(apps, schema_editor):
    time.sleep(float(os.environ.get("POS_MIGRATION_SECONDS", "8")))
"""
PRINTER = """def check_printer() -> None:
    raise ConnectionRefusedError("the receipt printer does not answer")


CHECKS = {
    "printer": check_printer,
"""
PRICE_LIST = '''"""Prices are read once in each process, by the first request."""

import time
from functools import cache


@cache
def price_list() -> dict[str, str]:
    time.sleep(6)
    return {}


def prices(get_response):
    def respond(request):
        price_list()
        return get_response(request)

    return respond
'''
EXPORT_TASK = '''"""Sales as a spreadsheet."""

from celery import shared_task
from openpyxl import Workbook


@shared_task
def export() -> None:
    Workbook().save("sales.xlsx")
'''
SLEEP = "\ntime.sleep(5)\n\napplication ="
LOG_FILE = '        "file": {"class": "logging.FileHandler", "filename": BASE_DIR / "logs" / "app.log"},\n        '
LFS_POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""

REVISIONS = (
    Revision(
        "code-only",
        "A good revision: another sentence on the page, another colour in the style sheet.",
        (
            replace(PAGE, "    <dl>\n", '    <p class="news">Now with oat milk.</p>\n    <dl>\n'),
            replace(STYLE, "--accent: #0f766e", "--accent: #b45309"),
        ),
    ),
    Revision(
        "new-requirement",
        "A good revision that needs one more package.",
        (
            replace("requirements.in", "psycopg", "humanize>=4\npsycopg"),
            replace("requirements.txt", "\nkombu==", f"\n{HUMANIZE}kombu=="),
            replace(VIEWS, "from django.conf import settings\n", "import humanize\nfrom django.conf import settings\n"),
            replace(VIEWS, "Sale.objects.count()", "humanize.intcomma(Sale.objects.count())"),
        ),
    ),
    Revision(
        "additive-migration",
        "Adds a nullable column with a database default: the code before it goes on reading and writing.",
        (SHELF, migration("inventory", "0002_first_products", "0003_product_shelf", ADD_SHELF)),
    ),
    Revision(
        "additive-not-null",
        "Adds a NOT NULL column without a database default: the code before it goes on reading, and cannot sell.",
        (*TILL, migration("sales", "0001_initial", "0002_sale_till", ADD_TILL)),
    ),
    Revision(
        "destructive-migration",
        "Drops a column with its data; reversing brings back the column alone. The code before it cannot even read.",
        (
            replace("sales/models.py", NOTE, ""),
            replace("sales/api.py", SALE_FIELDS, SALE_FIELDS.replace(' "note",', "")),
            migration("sales", "0001_initial", "0002_remove_sale_note", 'migrations.RemoveField("sale", "note")'),
        ),
    ),
    Revision(
        "irreversible-migration",
        "Rounds every price, and Django cannot reverse it.",
        (
            migration(
                "inventory",
                "0002_first_products",
                "0003_round_prices",
                "migrations.RunPython(round_prices)",
                code=ROUND_PRICES,
            ),
        ),
    ),
    Revision(
        "failing-migration",
        "Not atomic: the first operation is committed, the second fails, and the release before it cannot sell.",
        (*TILL, migration("sales", "0001_initial", "0002_sale_till", ADD_TILL, FAIL, atomic=False)),
    ),
    Revision(
        "failing-atomic-migration",
        "The second operation fails and the database takes back the first.",
        (*TILL, migration("sales", "0001_initial", "0002_sale_till", ADD_TILL, FAIL)),
    ),
    Revision(
        "superuser-migration",
        "Wants a PostgreSQL extension that only a superuser may create; fails on SQLite too.",
        (
            migration(
                "inventory",
                "0002_first_products",
                "0003_bloom",
                'migrations.RunSQL("CREATE EXTENSION bloom", "DROP EXTENSION bloom")',
            ),
        ),
    ),
    Revision(
        "slow-migration",
        "Alters a table and holds its lock for POS_MIGRATION_SECONDS (8).",
        (
            SUPPLIER,
            migration(
                "inventory",
                "0002_first_products",
                "0003_product_supplier",
                ADD_SUPPLIER,
                "migrations.RunPython(take_long, migrations.RunPython.noop)",
                code=TAKE_LONG,
            ),
        ),
    ),
    Revision(
        "broken-import",
        "The addresses import a module that is not there: the server boots, `check` and every request fail.",
        (replace(URLS, "from sales.api", "from sales.receipts import print_receipt\nfrom sales.api"),),
    ),
    Revision(
        "broken-wsgi",
        "pos/wsgi.py imports a module that is not there: `check` passes and the server does not boot.",
        (replace(WSGI, "import os\n", "import os\n\nfrom pos.monitoring import watch\n"),),
    ),
    Revision(
        "broken-settings",
        "Wants an environment variable, PAYMENT_KEY, that nobody has set.",
        (replace(SETTINGS, "# The application\n", 'PAYMENT_KEY = os.environ["PAYMENT_KEY"]\n\n# The application\n'),),
    ),
    Revision(
        "unhealthy",
        "Boots, and /healthz answers 503.",
        (replace(HEALTH, "CHECKS = {\n", PRINTER),),
    ),
    Revision(
        "slow-boot",
        "Importing pos/wsgi.py takes 5 s.",
        (replace(WSGI, "import os\n", "import os\nimport time\n"), replace(WSGI, "\napplication =", SLEEP)),
    ),
    Revision(
        "slow-first-request",
        "Boots at once; the first request to each process takes 6 s.",
        (
            add("pos/prices.py", PRICE_LIST),
            replace(SETTINGS, "MIDDLEWARE = [\n", 'MIDDLEWARE = [\n    "pos.prices.prices",\n'),
        ),
    ),
    Revision(
        "worker-dead",
        "A task module imports a package that is not required: the web is well, worker and beat die at start.",
        (add("sales/tasks.py", EXPORT_TASK),),
    ),
    Revision(
        "unconsumed-queue",
        "Routes reports to a queue that no worker consumes: every process is well, and no report is ever made.",
        (replace(SETTINGS, '{"queue": "reports"}', '{"queue": "exports"}'),),
    ),
    Revision(
        "debug-on",
        "Switches DEBUG on, whatever the environment says.",
        (replace(SETTINGS, 'DEBUG = flag("DEBUG")', "DEBUG = True"),),
    ),
    Revision(
        "sqlite-fallback",
        "Reads another variable than DATABASE_URL, and falls back to SQLite in the checkout without a word.",
        (replace(SETTINGS, 'os.environ.get("DATABASE_URL"', 'os.environ.get("POS_DATABASE_URL"'),),
    ),
    Revision(
        "import-writes",
        "Opens logs/app.log in the checkout when the settings are loaded.",
        (
            add("logs/.gitkeep", ""),
            replace(SETTINGS, '    "handlers": {', '    "handlers": {\n' + LOG_FILE),
            replace(SETTINGS, '{"handlers": ["console"]', '{"handlers": ["console", "file"]'),
        ),
    ),
    Revision(
        "media-in-git",
        "Tracks a file in media/, which a release links to the shared folder.",
        (add("media/products/price-list.txt", "Coffee 2.80\nTea 2.20\n"),),
    ),
    Revision(
        "lfs",
        "Keeps the logo in Git LFS: a checkout without LFS has a pointer of three lines in its place.",
        (
            add(".gitattributes", "*.png filter=lfs diff=lfs merge=lfs -text\n"),
            add("pos/static/pos/logo.png", LFS_POINTER),
            replace(PAGE, "    <h1>", '    <img src="{% static \'pos/logo.png\' %}" alt="">\n    <h1>'),
        ),
    ),
    Revision(
        "newer-python",
        "Wants a Python that does not exist yet.",
        (add("pyproject.toml", '[project]\nname = "pos"\nversion = "1.0"\nrequires-python = ">=3.99"\n'),),
    ),
    Revision(
        "own-gunicorn-config",
        "Has a gunicorn.conf.py with a bind and workers of its own, which gunicorn reads from its working directory.",
        (add("gunicorn.conf.py", 'bind = "127.0.0.1:8999"\nworkers = 7\n'),),
    ),
    Revision(
        "sub-directory",
        "The application is in backend/, its requirements are at the top.",
        (move_into("backend", keep={".gitignore", "README.md", "requirements.in", "requirements.txt"}),),
    ),
)


def application() -> Tree:
    """The files of the example: text, by path from its top. Leaves out what running it makes."""
    files = (path.relative_to(APPLICATION) for path in APPLICATION.rglob("*") if path.is_file())
    ours = (path for path in files if NOT_OURS.isdisjoint(path.parts) and not path.name.startswith("db.sqlite3"))
    return {path.as_posix(): (APPLICATION / path).read_text(encoding="utf-8") for path in ours}


def tree_of(revision: Revision) -> Tree:
    tree = application()
    for edit in revision.edits:
        edit(tree)
    return tree


def commit(ref: str, number: int, says: str, tree: Tree) -> bytes:
    """One commit in the language of `git fast-import`; every commit but number 0 comes after number 0."""
    person = f"Example <example@example.com> {FIRST_COMMIT + 60 * number} +0000"
    lines = [f"commit {ref}", f"mark :{number + 1}", f"author {person}", f"committer {person}", data(says)]
    lines += ["from :1", "deleteall"] if number else []
    for path, text in sorted(tree.items()):
        mode = "100755" if path.endswith("manage.py") else "100644"
        lines += [f"M {mode} inline {path}", data(text)]
    return "\n".join([*lines, ""]).encode()


def data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}"


def git(path: Path, *words: str, stdin: bytes = b"") -> str:
    """Raises CalledProcessError. The user's own configuration and hooks stay out of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(path), *words]
    return subprocess.run(command, input=stdin, env=environment, check=True, stdout=subprocess.PIPE).stdout.decode()


def make(path: str | Path) -> dict[str, str]:
    """Make the repository in a folder that is new or empty; return the sha of each tag. Raises FileExistsError."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty")
    stream = commit("refs/heads/main", 0, "base: the application as it is", application())
    stream += b"reset refs/tags/base\nfrom :1\n\n"
    for number, revision in enumerate(REVISIONS, start=1):
        stream += commit(f"refs/tags/{revision.tag}", number, f"{revision.tag}: {revision.says}", tree_of(revision))
    git(path, "init", "--quiet", "--initial-branch=main", "--object-format=sha1", "--template=")
    git(path, "fast-import", "--quiet", stdin=stream)
    git(path, "reset", "--quiet", "--hard", "main")
    listing = git(path, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags")
    return dict(line.split() for line in listing.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", metavar="DIR", help="a folder that is new or empty")
    parser.add_argument("--list", action="store_true", help="say what each tag is for")
    asked = parser.parse_args()
    if asked.list:
        print(f"{'base':<26}The application as it is.")
        print("\n".join(f"{revision.tag:<26}{revision.says}" for revision in REVISIONS))
    elif asked.directory:
        print("\n".join(f"{sha} {tag}" for tag, sha in make(asked.directory).items()))
    else:
        parser.error("say a folder, or --list")
    return 0


if __name__ == "__main__":
    sys.exit(main())
