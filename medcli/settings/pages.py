"""Settings of `report`, `demo` and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.presets import DEFAULT_BUNDLE
from medcli.settings.declare import OUTPUT, SAMPLING, count_setting, setting
from medcli.settings.machine import DEVICE, force_setting, output_setting, seed_setting
from medcli.settings.sampling import MAX_IMAGES


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Runs to show on one page."""

    inputs: tuple[Path, ...] = setting(
        (),
        help="Sample folders, reports of fid --json and bench --json, and results of analyze and tune.",
        metavar="INPUT",
        positional=True,
        default_text="all of ./samples",
    )
    output: Path = output_setting(Path("report.html"), help="The page.")
    title: str | None = setting(
        None, help="Heading of the page.", panel=OUTPUT, metavar="TEXT", default_text="by contents", short=True
    )
    num_pictures: int = count_setting(
        24, MAX_IMAGES, key="pictures", help="Number of images shown of each run.", panel=OUTPUT, minimum=0, short=True
    )
    force: bool = force_setting()


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """Comparison on a bundled model."""

    bundle: str = setting(
        DEFAULT_BUNDLE,
        help="Bundled model.",
        panel=SAMPLING,
        positional=True,
        metavar="BUNDLE",
    )
    num_images: int = count_setting(
        10,
        MAX_IMAGES,
        help="Number of images of each variant; at the larger size a third of it, at least ten.",
        panel=SAMPLING,
        minimum=10,
        short=True,
    )
    seed: int = seed_setting(SAMPLING)
    """Image i starts from the same noise in each variant."""
    device: str | None = setting(None, **DEVICE, short=True)
    output: Path = output_setting(Path("demo"), metavar="DIR", help="Output folder.")


@dataclass(frozen=True, kw_only=True)
class DoctorRequest:
    """Nothing to set."""
