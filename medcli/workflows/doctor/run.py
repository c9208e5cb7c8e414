"""Check this machine; list what is missing and what that disables. Writes nothing, uses no network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medcli.version import __version__
from medcli.workflows.doctor.checks import CHECKS
from medcli.workflows.doctor.finding import Check, Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """Findings of all checks."""

    findings: tuple[Finding, ...]

    @property
    def missing(self) -> tuple[Finding, ...]:
        """Findings with status `missing`."""
        return tuple(finding for finding in self.findings if finding.status == "missing")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "medcli": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "num_missing": len(self.missing),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(checks: Sequence[Check] = CHECKS) -> DoctorReport:
    """Run all checks. A check that raises becomes a finding too, since this runs on broken machines.

    Args:
        checks: The checks.
    """
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
