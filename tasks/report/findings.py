"""What was found on hosts, as people and programs read it: `fab check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model.finding import Finding
from .words import bold, clean, counted

Found = Mapping[str, tuple[Finding, ...]]


def to_text(found: Found, *, aligned: bool, strong: bool = False) -> str:
    """A line per thing and host. Aligned under the host's name on a terminal; else each line is whole by itself."""
    lines = [line for host in found for line in (_block if aligned else _plain)(host, found[host], strong)]
    return "\n".join([*lines, _verdict(found)]) + "\n"


def to_json(found: Found, stage: str) -> dict[str, Any]:
    """docs/reference/json.md has every field."""
    return {
        "stage": stage,
        "ready": not bad(found),
        "hosts": {
            host: [{"what": one.what, "state": one.state, "value": one.value, "hint": one.hint} for one in findings]
            for host, findings in found.items()
        },
    }


def bad(found: Found) -> int:
    return _count(found, "bad")


def _count(found: Found, state: str) -> int:
    return sum(one.state == state for findings in found.values() for one in findings)


def _block(host: str, findings: tuple[Finding, ...], strong: bool) -> Iterator[str]:
    yield bold(clean(host), strong)
    width = max((len(one.what) for one in findings), default=0)
    for one in findings:
        state = bold(f"{one.state:7}", strong and one.state in ("bad", "look"))
        yield f"  {state}  {clean(one.what):{width}}  {_said(one)}"


def _plain(host: str, findings: tuple[Finding, ...], strong: bool) -> Iterator[str]:  # noqa: ARG001 - as _block
    for one in findings:
        yield f"{clean(host)} {clean(one.state)} {clean(one.what)}: {_said(one)}"


def _said(one: Finding) -> str:
    return clean(one.value) + (f" -> {clean(one.hint)}" if one.hint else "")


def _verdict(found: Found) -> str:
    looks = _count(found, "look")
    if count := bad(found):
        return f"not ready to deploy: {counted(count, 'thing')} bad" + (f", {looks} to look at" if looks else "")
    return "ready to deploy" + (f"; {counted(looks, 'thing')} to look at" if looks else "")
