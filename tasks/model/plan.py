"""A plan is a value: what is said to which host, in which order, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .shell import Script


@dataclass(frozen=True)
class Step:
    """One thing said to one host. `undo` must be safe where the step did not happen, or half."""

    name: str
    title: str
    script: Script
    undo: Script = field(default_factory=Script)
    lasting: bool = False
    """What it changes outlives the release (the schema): where its undo fails, a person must look."""
    seen: bool = False
    """Users may have noticed something by the time it begins: a failure from here on is reported as put back."""


@dataclass(frozen=True)
class Phase:
    """Steps between two barriers: no host begins the next phase before every host ended this one.

    `batch` hosts at a time (0: all at once). With `visible`, users may notice; from which step on, that step says.
    With `must` False a failure is a warning: what matters has happened.
    """

    name: str
    title: str
    steps: Mapping[str, tuple[Step, ...]]
    batch: int = 0
    visible: bool = False
    must: bool = True

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host for host, steps in self.steps.items() if steps)


@dataclass(frozen=True)
class Plan:
    verb: str
    stage: str
    hosts: tuple[str, ...]
    phases: tuple[Phase, ...]
    release: str = ""
    note: str = ""

    def merged(self) -> Plan:
        """Without the barriers a single host does not need: one script instead of one per phase."""
        if len(self.hosts) != 1:
            return self
        phases: list[Phase] = []
        for phase in (one for one in self.phases if one.hosts):
            last = phases[-1] if phases else None
            if last and (last.visible, last.must) == (phase.visible, phase.must):
                host = self.hosts[0]
                phases[-1] = replace(last, steps={host: (*last.steps[host], *phase.steps[host])})
            else:
                phases.append(phase)
        return replace(self, phases=tuple(phases))
