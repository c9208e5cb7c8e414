"""Flags that would do nothing are refused, so that nobody thinks they did something. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import typer

from medcli.errors import ConfigError


def refuse_without(flag: str, given: Mapping[str, object], *, hint: str) -> None:
    """Refuse options that mean nothing where another one is missing.

    Args:
        flag: The one that is missing.
        given: Values by flag; None where it was not given.
        hint: What to do.

    Raises:
        ConfigError: Naming the first that was given.
    """
    for other, value in given.items():
        if value is not None:
            raise ConfigError(f"{other} does nothing without {flag}", hint=hint)


def refuse_given(ctx: typer.Context, names: Iterable[str], *, where: str) -> None:
    """Refuse parameters that were given on the command line, whatever their value.

    Args:
        ctx: The command's.
        names: Of parameters that mean nothing.
        where: When they mean nothing, such as `with --train`.

    Raises:
        ConfigError: Naming the first that was given.
    """
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} does nothing {where}", hint=f"leave {flag} out")
