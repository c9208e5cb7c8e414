"""Write the tables of docs/families.md: `python docs/scripts/families_page.py`.

Every "yes" is a command that ran on a tiny network of the family, every "no" one that was refused, with its message.
The rest of the page is kept. A test compares the page with the output of this script.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medcli.cli.app import main
from medcli.config import Family, ModelConfig
from medcli.cost.macs import closed_form_macs
from medcli.ladder import listing
from medcli.model.layout import num_params, position_tables
from medcli.presets import PUBLISHED, amm_blocks, family_title, preset_config, preset_names
from medcli.runtime.files import write_text

BEGIN, END = "<!-- {}: made by python docs/scripts/families_page.py -->\n", "<!-- end of {} -->\n"
RESOLUTIONS_PX = (256, 512)
PAGE = Path(__file__).resolve().parents[1] / "families.md"

TINY: dict[str, Any] = {
    "hidden_size": 8,
    "num_heads": 2,
    "patch_size": 1,
    "latent_size": 8,
    "in_channels": 1,
    "num_classes": 10,
    "autoencoder": None,
    "latent_scale": 1.0,
    "latent_downsample": 1,
}
TINY_FAMILIES: dict[Family, dict[str, Any]] = {
    "dit": {"depth": 3},
    "sit": {"depth": 3, "learn_sigma": False},
    "edt": {"depth": 3, "stage_depths": (1, 1, 1), "stage_widths": (8, 12, 8), "stage_heads": (2, 2, 2)},
    "mdtv2": {"depth": 3, "decoder_depth": 1},
}

QUICK_SAMPLE = "--steps 4 --num-images 2 --device cpu"
QUICK_TRAIN = "--steps 1 --global-batch-size 2 --preview-every 0 --device cpu"
PROBES: dict[str, str] = {
    "inspect": "inspect dense.safetensors",
    "convert to a mediator ladder": "convert dense.safetensors -o probe.safetensors --mediators 1,4 --layers 0",
    "convert --to official": "convert dense.safetensors -o probe.pt --to official --layers none",
    "convert --to diffusers": "convert dense.safetensors -o probe-folder --to diffusers --layers none",
    "flops": "flops dense.safetensors --mediators none",
    "sample": f"sample dense.safetensors {QUICK_SAMPLE} -o images",
    "sample --schedule dynamic": f"sample ladder.safetensors {QUICK_SAMPLE} --schedule dynamic --rho 0.5 -o dynamic",
    "sample --amm": f"sample dense.safetensors {QUICK_SAMPLE} --amm auto --amm-blocks 2 -o amm",
    "sample --cfg-power": f"sample dense.safetensors {QUICK_SAMPLE} --cfg-power 4 --cfg-scale 2 -o power",
    "fid": "fid images digits --metrics kid",
    "bench": "bench ladder.safetensors --repeats 1 --steps 0 --batch-size 1 --device cpu",
    "analyze": "analyze dense.safetensors --steps 6 --num-images 2 --points 1 --device cpu -o seen",
    "finetune": f"finetune dense.safetensors {QUICK_TRAIN} -o plain",
    "finetune of a ladder": f"finetune ladder.safetensors {QUICK_TRAIN} -o ladder",
    "finetune --mask down": f"finetune dense.safetensors {QUICK_TRAIN} --mask down -o down",
    "finetune --mask input": f"finetune dense.safetensors {QUICK_TRAIN} --mask input -o input",
    "finetune --timesteps loss": f"finetune dense.safetensors {QUICK_TRAIN} --timesteps loss -o by-loss",
    "finetune --calibrate": f"finetune ladder.safetensors {QUICK_TRAIN} --calibrate --dry-run -o calibrated",
    "finetune --dry-run": f"finetune dense.safetensors {QUICK_TRAIN} --dry-run -o planned",
}


def page(text: str) -> str:
    """Replace the tables of a page.

    Raises:
        ValueError: If the page lacks a table's marks.
    """
    for name, table in (("commands", commands_table()), ("sizes", sizes_table())):
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        if not rest or not after:
            raise ValueError(f"the page has no place for the table of {name}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def sizes_table() -> str:
    """Build the table of presets: parameters, MACs, the published figures and the AMM blocks."""
    rows = []
    for name in preset_names():
        config, published = preset_config(name), PUBLISHED.get(name)
        tables = sum(side**2 * width for width, side in position_tables(config).values())
        gmacs = [closed_form_macs(config, resolution_px=side) / 1e9 for side in RESOLUTIONS_PX]
        printed = "" if published is None else f"{published.gmacs:g} G"
        if published is not None and published.million_params is not None:
            printed += f", {published.million_params:g} M"
        # Papers count what is trained; fixed position tables are not.
        params = f"{(num_params(config) - tables) / 1e6:.2f} M"
        rows.append([name, params, *(f"{each:.3f}" for each in gmacs), printed, listing(amm_blocks(config) or ())])
    head = [
        "Preset",
        "Trained parameters",
        *(f"GMACs at {side} px" for side in RESOLUTIONS_PX),
        "Published",
        "AMM blocks",
    ]
    remarks = {preset: published.remark for preset, published in PUBLISHED.items() if published.remark}
    return _table(head, rows) + "".join(f"\n- {preset}: {remark}." for preset, remark in remarks.items()) + "\n"


def commands_table() -> str:
    """Build the table of commands by family."""
    answers = {family: _answers(family) for family in TINY_FAMILIES}
    said: dict[str, int] = {}

    def cell(answer: str) -> str:
        return f"no ({said.setdefault(answer, len(said) + 1)})" if answer else "yes"

    rows = [[probe, *(cell(answers[family][probe]) for family in TINY_FAMILIES)] for probe in PROBES]
    head = ["Command", *map(family_title, TINY_FAMILIES)]
    return _table(head, rows) + "".join(f"\n{number}. {answer}" for answer, number in said.items()) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _answers(family: Family) -> dict[str, str]:
    """Run every probe on a family; return its error message, empty if it succeeded."""
    with _empty_folder():
        config = ModelConfig(family=family, **TINY, **TINY_FAMILIES[family])
        _save("dense.safetensors", config)
        _save("ladder.safetensors", replace(config, mediators=(1, 4), mediator_layers=(0,)))
        return {probe: _error_of(words.split()) for probe, words in PROBES.items()}


@contextmanager
def _empty_folder() -> Iterator[None]:
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _save(name: str, config: ModelConfig) -> None:
    """Write a network with fresh weights."""
    from medcli.checkpoint.writer import save_checkpoint
    from medcli.model.backbone import DiffusionTransformer, initialise

    model = DiffusionTransformer(config)
    initialise(model, 0)
    save_checkpoint(name, config, model.state_dict())


def _error_of(words: list[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*words, "--quiet"])
    if not code:
        return ""
    return next(line for line in err.getvalue().splitlines() if line.startswith("error: ")).removeprefix("error: ")


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8")), force=True)
