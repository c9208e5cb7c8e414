"""Write many files of a folder, each in a few calls of the system: a file server answers some thousands a second."""

from __future__ import annotations

import os
from pathlib import Path

from medcli.runtime.files import folder_error, translated
from medcli.runtime.temporaries import make_temporary


def put_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write one of many files of a folder, whole or not at all and replacing an older one, in few calls of the system.

    The disk has the content before the file gets its name. A missing folder is made.

    Raises:
        ConfigError: If a folder has that name.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    with translated(path):
        try:
            temporary = make_temporary(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = make_temporary(path)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(temporary.descriptor, rest) :]
            os.fsync(temporary.descriptor)
            os.replace(temporary.path, path)
        except BaseException as err:
            temporary.remove()
            if isinstance(err, IsADirectoryError):
                raise folder_error(path) from err
            raise
        finally:
            temporary.close()
