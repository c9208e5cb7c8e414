"""Files that appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medcli.errors import ConfigError, DataError, EnvironmentProblem, MedcliError
from medcli.runtime.temporaries import Temporary, is_temporary, make_temporary, replace_folder, sweep
from medcli.runtime.text import size_text

CHUNK_BYTES = 1 << 20
"""Bytes read at once for a hash."""
END_BYTES = 4096
"""Bytes of a file's end."""
FULL_BYTES = 1 << 20
"""Free bytes below which a disk counts as full, for exceptions without a number."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ELOOP,
    }
)


class FileSizeLimit(EnvironmentProblem):
    """A file is larger than the process or the file system allows: no matter of free space."""


@contextmanager
def atomic_path(
    path: str | os.PathLike[str], force: bool = False, *, sweeps: bool = True, is_durable: bool = False
) -> Iterator[Path]:
    """Write a file under a temporary name and rename it once the block ends well.

    The temporary file exists (empty) when the block starts, so an unwritable folder is found before any work, and it
    keeps the target's suffix, so libraries that choose a format by suffix choose the same one. Open it for writing; a
    library that replaces it by a file of its own loses its lock. Missing parent folders are made. When the block
    raises, Ctrl-C included, the temporary file and the folders made for it are removed.

    Args:
        path: The file to make.
        force: Replace an existing file.
        sweeps: Remove temporaries of killed processes for this file; lists the whole folder.
        is_durable: Wait until the disk has the content before renaming, so that a power cut leaves no short file.

    Yields:
        The temporary path to write to.

    Raises:
        ConfigError: If the file exists and `force` is off, or a folder has that name.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    target = Path(path)
    with translated(target):
        refuse_existing(target, force=force)
        if target.is_dir():
            raise folder_error(target)
        if sweeps:
            sweep(target.parent, target)
    with _beside(target, is_folder=False) as temporary:
        yield temporary.path
        if is_durable:
            os.fsync(temporary.descriptor)
        os.replace(temporary.path, target)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], force: bool = False, *, mark: str) -> Iterator[Path]:
    """Fill a folder under a temporary name and rename it once the block ends well.

    Args:
        path: The folder to make.
        force: Replace an existing folder of this kind and all its contents.
        mark: File by which a folder of this kind is recognised.

    Yields:
        The temporary folder to fill; it exists and is empty.

    Raises:
        ConfigError: If the folder exists and `force` is off, it holds something else, or a file has that name.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    target = Path(path)
    with translated(target):
        refuse_existing(target, force=force)
        if target.is_file():
            raise ConfigError(f"{target} is a file, expected a folder name", hint="choose another name with --output")
        if Path.cwd().is_relative_to(os.path.realpath(target)):
            raise ConfigError(
                f"{target} holds the current folder, which can't be replaced", hint="name a new folder with --output"
            )
        if target.is_dir() and not (target / mark).exists() and any(target.iterdir()):
            raise ConfigError(
                f"{target} is not empty and holds no {mark}: it is not replaced", hint="choose another --output"
            )
        sweep(target.parent, target)
    with _beside(target, is_folder=True) as temporary:
        yield temporary.path
        replace_folder(temporary.path, target)


def file_end(path: Path) -> bytes:
    """Return the last bytes of a file, for its fingerprint: of most image formats they follow from all pixels."""
    require_regular(path)
    with path.open("rb") as file:
        file.seek(-min(END_BYTES, path.stat().st_size), os.SEEK_END)
        return file.read(END_BYTES)


def write_bytes(path: str | os.PathLike[str], content: bytes, *, force: bool = False, is_durable: bool = False) -> None:
    """Write a file in one go, whole or not at all.

    Raises:
        ConfigError: If the file exists and `force` is off.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    with atomic_path(path, force=force, is_durable=is_durable) as temporary:
        temporary.write_bytes(content)


def refuse_existing(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that exists, or that is an input.

    Args:
        path: The output.
        force: It may be replaced.
        inputs: What the command reads, and must not replace.

    Raises:
        ConfigError: If it exists and `force` is off, or is an input.
    """
    if not path.exists():
        return
    if not force:
        raise ConfigError(f"{path} already exists", hint="pass --force to replace it, or another name with --output")
    if any(source.exists() and path.samefile(source) for source in inputs):
        raise ConfigError(f"{path} is an input of this command", hint="choose another name for the output")


def require_regular(path: Path, error: type[MedcliError] = DataError) -> None:
    """Refuse a pipe, a device or a socket, whose reading may never end. Missing paths and folders pass.

    Args:
        error: Raised.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
    for is_kind, name in kinds.items():
        if is_kind(mode):
            raise error(f"{path} is {name}, expected a file or a folder", hint="save its content to a file first")


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False, is_durable: bool = False) -> None:
    """Write a UTF-8 text file in one go, whole or not at all.

    Raises:
        ConfigError: If the file exists and `force` is off.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    write_bytes(path, text.encode("utf-8"), force=force, is_durable=is_durable)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files in name order, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def require_space(path: Path, num_bytes: int, what: str) -> None:
    """Check that the disk has room.

    Args:
        path: The output, or where it will be.
        num_bytes: Bytes that will be added.
        what: Name of the output, in the plural: `12 images`.

    Raises:
        EnvironmentProblem: If there is not enough room.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < num_bytes:
        raise EnvironmentProblem(
            f"{what} take about {size_text(num_bytes)}, {there} has {size_text(free)} free",
            hint="free some space, or choose another disk with --output",
        )


def folder_error(target: Path) -> ConfigError:
    """Return the error for a folder in the place of a file."""
    return ConfigError(
        f"{target} is a folder, expected a file name", hint=f"try --output {target / 'model.safetensors'}"
    )


@contextmanager
def _beside(target: Path, *, is_folder: bool) -> Iterator[Temporary]:
    """Make a temporary beside a target, and remove it when the block raises."""
    with translated(target), _parents_of(target):
        temporary = make_temporary(target, is_folder=is_folder)
        try:
            yield temporary
        except BaseException:
            temporary.remove()
            raise
        finally:
            temporary.close()


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """Make the missing parent folders; remove them, if empty, when the block raises."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def translated(target: Path) -> Iterator[None]:
    """Turn refusals of the operating system about the output into errors with a hint."""
    try:
        yield
    except Exception as err:
        number = _errno_of(err, target)
        reason = os.strerror(number) if number else str(err)
        if number == errno.EFBIG:
            raise FileSizeLimit(
                f"can't write {target}: {reason}", hint="raise the limit of file sizes (ulimit -f)"
            ) from err
        if number in NO_SPACE:
            raise EnvironmentProblem(
                f"can't write {target}: {reason}", hint="free some space, or choose another disk with --output"
            ) from err
        # Reading an input inside the block may fail the same way; only our own paths are the output's fault.
        if number in REFUSED and isinstance(err, OSError) and _is_about(err, target):
            raise EnvironmentProblem(
                f"can't write {target}: {reason}", hint="choose a writable folder with --output"
            ) from err
        raise


def _errno_of(err: Exception, target: Path) -> int | None:
    """Return the error number behind an exception, None if the operating system is not behind it."""
    if isinstance(err, OSError):
        if err.errno is None and not isinstance(err, UnicodeError) and _is_full(target):
            return errno.ENOSPC  # numpy and Pillow leave the number out
        return err.errno
    if type(err).__name__ == "SafetensorError" and (found := re.search(r"os error (\d+)", str(err))):
        return int(found[1])
    return None


def _is_full(target: Path) -> bool:
    there = next(folder for folder in target.absolute().parents if folder.exists())
    return shutil.disk_usage(there).free < FULL_BYTES


def _is_about(err: OSError, target: Path) -> bool:
    if not isinstance(err.filename, str):
        return True
    failed = Path(err.filename)
    if failed == target or failed in target.parents:
        return True
    return any(each.parent == target.parent and is_temporary(each.name) for each in (failed, *failed.parents))
