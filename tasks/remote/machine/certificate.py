"""The certificate users are shown: obtained on the server and renewed there, or put there by somebody."""

from __future__ import annotations

from ...model.call import call
from ...model.config import Stage
from ...model.machine import Part, Thing
from ...model.shell import Script, script
from ...server.make import file as files_made
from .. import files
from .things import file, folder, part, unit

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
ANSWERS = "acme-challenge"
"""A site that has this in it answers an authority."""
HOOK = "/etc/letsencrypt/renewal-hooks/deploy/fab-releases"


def parts(stage: Stage) -> tuple[Part, ...]:
    """Where nginx answers already: the authority asks it for a proof."""
    match stage.tls.certificate:
        case "certbot":
            return (_obtained(stage),)
        case "files":
            return (part("certificate", "Look at the certificate", _given(stage)),)
    return ()


def _obtained(stage: Stage) -> Part:
    """Debian's timer renews it; the hook is how nginx hears of that."""
    tls, name = stage.tls, stage.known_as
    authority = tls.server or LETS_ENCRYPT
    want = "\n".join(
        [*(f"for {one}" for one in sorted(stage.names)), f"from {authority}", "renewed by webroot", "not overdue"]
    )
    made = script(("make_obtained", name, want, tls.email, authority, files.WEBROOT, *stage.names))
    return part(
        "certificate",
        "Obtain a certificate",
        folder(files.WEBROOT, "root", "root", "755"),
        file(HOOK, files.render("renewed", stage), "755"),
        Thing("certificate", ("look_obtained", name), want, made),
        unit("certbot.timer"),
        use=("reload", "nginx.service"),
    )


def _given(stage: Stage) -> Thing:
    words = (stage.certificate, stage.certificate_key, *stage.names)
    want = "\n".join(
        [*(f"is for {one}" for one in stage.names), f"belongs to {stage.certificate_key}", "has not ended"]
    )
    return Thing("certificate", ("look_given", *words), want, script(("need_given", want, *words)))


def first_site(path: str, text: str) -> Thing:
    """Until there is a certificate, and only where there is no site yet."""
    made = script(call(files_made.make_unless, path, "root", "root", "644", text, ANSWERS))
    return Thing("site before the certificate", ("look_first_site", path), "answers an authority", made)


def served(stage: Stage) -> Thing:
    """Whoever exchanged the file, or renewed without telling nginx, is noticed; the part's reload is the remedy."""
    return Thing("served certificate", ("look_served", stage.certificate, stage.domain), "served", Script())
