"""Settings of a network that is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass

from medcli.config import MAX_SIZE
from medcli.settings.declare import INPUT, MODEL, count_setting, setting
from medcli.settings.network import MAX_RES


@dataclass(frozen=True, kw_only=True)
class FreshNetwork:
    """Size of a network with random weights: a preset, sizes, or a preset some of whose sizes are replaced."""

    preset: str | None = setting(
        None,
        help="Train a named size such as SiT-S/2 from scratch, without CHECKPOINT.",
        panel=INPUT,
        metavar="NAME",
        default_text="",
        short=True,
    )
    width: int | None = count_setting(
        None, MAX_SIZE, help="From scratch: width of the tokens.", panel=MODEL, metavar="D", default_text="the preset's"
    )
    depth: int | None = count_setting(
        None, MAX_SIZE, help="From scratch: number of blocks.", panel=MODEL, default_text="the preset's"
    )
    patch: int | None = count_setting(
        None,
        MAX_RES,
        help="From scratch: side of a patch.",
        panel=MODEL,
        metavar="P",
        default_text="the preset's, else 2",
    )
    channels: int | None = count_setting(
        None,
        MAX_SIZE,
        help="From scratch: channels of the latents; 1 and 3 make a model of grey or colour pixels.",
        panel=MODEL,
        metavar="C",
        default_text="the data's",
    )
    learn_sigma: bool | None = setting(
        None,
        help="From scratch: also output a variance, as the published models do.",
        panel=MODEL,
        negatable=True,
        default_text="on",
    )
    positions_res: int | None = count_setting(
        None,
        MAX_RES,
        help="From scratch: image side whose positions are spread over the image, for training at a lower --res first.",
        panel=MODEL,
        metavar="PX",
        default_text="--res",
    )

    @property
    def given(self) -> str | None:
        """Flag of the first setting that asks for a network from scratch; None: the run starts from a checkpoint."""
        named = {
            "--preset": self.preset,
            "--width": self.width,
            "--depth": self.depth,
            "--patch": self.patch,
            "--channels": self.channels,
            "--learn-sigma": self.learn_sigma,
            "--positions-res": self.positions_res,
        }
        given = ((flag, value) for flag, value in named.items() if value is not None)
        return next((flag if isinstance(value, bool) else f"{flag} {value}" for flag, value in given), None)
