"""The command line as it was given, for records that let a run be repeated."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from medcli.cli.common import COMMON_OPTIONS

NOT_GIVEN = ("DEFAULT", "DEFAULT_MAP")
"""Where a parameter's value comes from when the user said nothing."""


def command_line(ctx: typer.Context) -> str:
    """The words that repeat this run, ready for a shell; flags about what is shown are left out."""
    words = ["medcli", str(ctx.info_name)]
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if source is None or source.name in NOT_GIVEN or parameter.name in COMMON_OPTIONS:
            continue
        words += _words_of(parameter, ctx.params[str(parameter.name)])
    return shlex.join(words)


def _words_of(parameter: Any, value: Any) -> list[str]:
    """An option's longest spelling and its value, or an argument."""
    if parameter.param_type_name == "argument":
        return [str(value)]
    if isinstance(value, bool):
        return [max(parameter.opts if value else parameter.secondary_opts, key=len)]
    return [max(parameter.opts, key=len), str(value)]
