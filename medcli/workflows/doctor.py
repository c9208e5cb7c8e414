"""What works on this machine, and what each missing thing costs. Reads and tries; writes nothing, asks no network."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medcli.version import __version__

Status = Literal["ok", "missing", "remark"]
"""`missing` takes something away from the user, `remark` is worth knowing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    """What there is, in a few words."""
    disables: str | None = None
    """What its lack takes away; None if nothing is missing."""
    remedy: str | None = None
    """How to get it."""


Check = Callable[[], Iterator[Finding]]
"""Looks at one thing, which may come to several findings. What it needs it imports itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """All that was looked at."""

    findings: tuple[Finding, ...]

    @property
    def missing(self) -> tuple[Finding, ...]:
        """What takes something away."""
        return tuple(finding for finding in self.findings if finding.status == "missing")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "medcli": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "num_missing": len(self.missing),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(checks: Sequence[Check] | None = None) -> DoctorReport:
    """Look at everything. A check that breaks is a finding too: this is run where something is wrong.

    Args:
        checks: What to look at; None takes all of `medcli.workflows.doctor_checks`.
    """
    if checks is None:
        from medcli.workflows.doctor_checks import CHECKS

        checks = CHECKS
    return DoctorReport(findings=tuple(finding for check in checks for finding in _findings(check)))


def _findings(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as err:  # whatever a broken installation comes up with
        reason = " ".join(str(err).split()) or "no reason given"
        yield Finding(
            name=check.__name__.replace("_", " "),
            status="missing",
            found=f"{type(err).__name__}: {reason}",
            disables="whatever needs it",
            remedy="reinstall the package that this error comes from",
        )
