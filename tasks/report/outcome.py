"""The last screen: what happened, what users are served now, what failed, what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..model.errors import EXIT_CODES
from ..model.event import PlanFinished, StepFinished
from .merge import by_value
from .words import bold, clean, seconds

RESULTS = {
    0: "done",
    1: "failed",
    2: "usage",
    3: "locked",
    4: "refused",
    5: "put-back",
    6: "mixed",
    70: "bug",
    130: "interrupted",
}
"""One word per exit code, for programs."""

LAST_LINES = 20
_LABEL = 13


def result(finished: PlanFinished) -> str:
    return RESULTS.get(finished.code, "failed")


def previous(finished: PlanFinished) -> str:
    """The releases that were live before, as the hosts told in their fact `previous`."""
    told = {facts["previous"] for facts in finished.facts.values() if facts.get("previous")}
    return clean(", ".join(sorted(told)))


def sentence(finished: PlanFinished) -> str:
    said = clean(finished.message) or EXIT_CODES.get(finished.code, "failed")
    return f"{clean(finished.plan.verb)} {clean(finished.plan.stage)}: {said}"


def to_text(finished: PlanFinished, failed: Sequence[StepFinished] = (), strong: bool = False) -> str:
    """`failed` are the steps that ended badly, in order; `strong` prints the first line bold."""
    blocks = [
        "\n".join(_result(finished, strong)),
        "\n".join((*_failures(failed), *_served(finished))),
        f"hint: {clean(finished.hint)}" if finished.hint else "",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def failures(failed: Iterable[StepFinished]) -> list[tuple[StepFinished, tuple[str, ...]]]:
    """Each way to fail once, with the hosts that failed so."""
    alike: dict[tuple[str, tuple[str, ...]], list[StepFinished]] = {}
    for step in failed:
        alike.setdefault((step.step, last_lines(step)), []).append(step)
    return [(steps[0], tuple(clean(step.host) for step in steps)) for steps in alike.values()]


def last_lines(step: StepFinished) -> tuple[str, ...]:
    return tuple(clean(line) for line in step.log[-LAST_LINES:])


def served(finished: PlanFinished) -> list[tuple[str, tuple[str, ...]]]:
    """What is served, in words, with the hosts that serve it."""
    words = {"": "nothing", "?": "unknown: could not be asked"}
    return by_value({clean(host): words.get(release) or clean(release) for host, release in finished.serves.items()})


def _result(finished: PlanFinished, strong: bool) -> Iterator[str]:
    line = f"{sentence(finished)} ({seconds(finished.seconds)})"
    if finished.code == 0:
        yield bold(line, strong)
        return
    yield bold(f"error: {line}", strong)
    yield f"       exit {finished.code}: {EXIT_CODES.get(finished.code, 'failed')}"


def _failures(failed: Sequence[StepFinished]) -> Iterator[str]:
    for step, hosts in failures(failed):
        yield f"{'failed':{_LABEL}}{clean(step.title or step.step)} on {', '.join(hosts)} after {seconds(step.seconds)}"
        yield from (f"{'':{_LABEL}}| {line}" for line in last_lines(step))


def _served(finished: PlanFinished) -> Iterator[str]:
    groups = served(finished)
    label = "serves now"
    for release, hosts in groups:
        yield f"{label:{_LABEL}}{release}  {', '.join(hosts)}"
        label = ""
    if len(groups) > 1:
        known = {release for release in finished.serves.values() if release != "?"}
        yield f"{'':{_LABEL}}the hosts {'differ' if len(known) > 1 else 'may differ'}"
