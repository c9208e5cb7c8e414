"""Settings in what runs write down: the one list of what decides images, read for `--config` and repeated commands.

`manifest.json` holds resolved settings, by which folders, resumed runs and the store of `tune` are compared. Each
setting declared with `decides` has an item in `IMAGE_VALUES` that reads it back from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medcli.errors import ConfigError, require_complete
from medcli.settings.build import command_line, given_in
from medcli.settings.config_file import RecordReader
from medcli.settings.declare import Setting, settings_of
from medcli.settings.sampling import PLANNED, SampleRequest
from medcli.settings.values import from_json

Values = Mapping[str, Any]

AS_GIVEN = ("checkpoint", "stage", "family", "heads", "classes", "vae", "plan")
"""Settings recorded as given: paths and hints, of which the resolved settings hold only what they lead to."""


def given_values(request: SampleRequest) -> dict[str, Any]:
    """Return the settings of `AS_GIVEN` that a request gives, as JSON values."""
    return {key: _plain(value) for key, value in given_in(request).items() if key in AS_GIVEN and value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): str(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def image_values(settings: Values, given: Values | None = None) -> dict[str, Any]:
    """Return, by key, the settings that generate the same images again, as JSON values.

    Args:
        settings: Resolved settings, as a manifest holds them.
        given: What `given_values` returned; None for a record without: files are then named without their folder.

    Raises:
        KeyError, TypeError, AttributeError: If the record is not of this form.
    """
    found = {key: read(settings) for key, read in IMAGE_VALUES.items()}
    if given is not None:
        found.update({key: given.get(key) for key in AS_GIVEN})
        if found["plan"] is not None:
            found = {key: value for key, value in found.items() if key not in PLANNED}
    declared = settings_of(SampleRequest)
    return {key: value for key, value in found.items() if value is not None and _has_effect(declared[key], found)}


def _has_effect(made: Setting, values: Values) -> bool:
    return all(need.is_met(values.get(need.key)) for need in made.needs)


def repeated_command(name: str, cls: type[Any], values: Values) -> str:
    """Write the command that repeats a run.

    Args:
        values: JSON values by key; those of settings the command does not have are left out.

    Raises:
        ConfigError: If a value is none the setting can have.
    """
    declared = settings_of(cls)
    checked = {key: from_json(declared[key], value) for key, value in values.items() if key in declared}
    return command_line(name, cls, checked)


def _checkpoint(settings: Values) -> Any:
    files = settings["checkpoints"]
    return files[0]["file"] if len(files) == 1 else None


def _stages(settings: Values) -> Any:
    files, counts = settings["checkpoints"], settings["schedule"]["counts"]
    if len(files) == 1:
        return None
    return {str(count): one["file"] for count, one in zip(counts, files, strict=True)}


def _mediators(settings: Values) -> Any:
    is_named = settings["schedule"]["kind"] == "full" or len(settings["checkpoints"]) > 1
    return None if is_named else settings["schedule"]["counts"]


def _cfg_channels(settings: Values) -> Any:
    channels = (settings["guidance"] or {}).get("channels", 3)
    return "all" if channels is None else str(channels)


def _cfg_power(settings: Values) -> Any:
    is_gaussian = settings["sampler"]["sampler"] in ("ddpm", "ddim")
    return (settings["guidance"] or {}).get("power", 0.0 if is_gaussian else None)


def _amm(name: str, settings: Values) -> Any:
    return None if settings.get("amm") is None else settings["amm"][name]


def _sampler(name: str) -> Callable[[Values], Any]:
    return lambda settings: settings["sampler"].get(name)


def _last_step(settings: Values) -> Any:
    """Return the last step where it has an effect."""
    sampler = settings["sampler"]
    return None if sampler["sampler"] == "ode" and sampler["last_step"] != "euler" else sampler["last_step"]


def _schedule(name: str) -> Callable[[Values], Any]:
    return lambda settings: settings["schedule"].get(name)


IMAGE_VALUES: Mapping[str, Callable[[Values], Any]] = MappingProxyType(
    {
        "checkpoint": _checkpoint,
        "stage": _stages,
        "family": lambda settings: None,
        "heads": lambda settings: None,
        "weights": lambda settings: settings.get("weights"),
        "schedule": _schedule("kind"),
        "mediators": _mediators,
        **{name: _schedule(name) for name in ("rho", "warmup_steps", "distance", "at")},
        **{
            name: _sampler(name)
            for name in (
                *("sampler", "solver", "grid", "steps", "time_shift", "path", "prediction"),
                *("diffusion_form", "diffusion_norm", "last_step_size"),
            )
        },
        "last_step": _last_step,
        "cfg_scale": lambda settings: (settings["guidance"] or {}).get("scale", 1.0),
        "cfg_channels": _cfg_channels,
        "cfg_interval": lambda settings: (settings["guidance"] or {}).get("interval"),
        "cfg_power": _cfg_power,
        "amm": lambda settings: _amm("radius", settings),
        "amm_blocks": lambda settings: _amm("blocks", settings),
        "amm_form": lambda settings: _amm("form", settings),
        "classes": lambda settings: settings["labels"]["classes"],
        "plan": lambda settings: None,
        "label_sampling": lambda settings: settings["labels"]["sampling"],
        "seed": lambda settings: settings["seed"],
        "vae": lambda settings: settings.get("autoencoder"),
        "dtype": lambda settings: settings["dtype"],
    }
)
"""Reader of each setting that decides images, from resolved settings; None: it is left out."""
require_complete("setting", IMAGE_VALUES, [key for key, made in settings_of(SampleRequest).items() if made.decides])


def manifest_values(manifest: Values, path: Path) -> Values | None:
    """Read the settings of `medcli sample` from a manifest; None for another JSON object.

    Raises:
        ConfigError: If the manifest is damaged.
    """
    settings, run = manifest.get("settings"), manifest.get("run")
    if "format_version" not in manifest or not isinstance(settings, dict) or not isinstance(run, dict):
        return None
    try:
        found = image_values(settings, run.get("given"))
    except (KeyError, TypeError, AttributeError, ValueError) as err:
        raise ConfigError(f"{path} is not a manifest of this version of medcli ({err!r})") from err
    if settings["sampler"]["solver"] == "dopri5":  # its steps depend on the batch
        found["batch_size"] = run.get("batch_size")
    return {**found, "num_images": manifest.get("num_images")}


def run_values(record: Values, path: Path) -> Values | None:
    """Read the settings of `medcli finetune` from a run's `config.json`; None for another JSON object.

    Raises:
        ConfigError: If the record is damaged, or of an earlier version of medcli.
    """
    if "format_version" not in record or "training" not in record or "request" not in record:
        return None
    request = record["request"]
    if not isinstance(request, dict) or "training" in request or "start" in request or "network" in request:
        raise ConfigError(f"{path} records no settings of this version of medcli")
    return request


RECORDS: Mapping[str, RecordReader] = MappingProxyType({"sample": manifest_values, "finetune": run_values})
