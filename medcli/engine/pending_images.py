"""Which of the missing images this process makes, found out image by image while others do the same."""

from __future__ import annotations

from collections.abc import Iterator

from medcli.engine.sample_folder import SampleFolder


class Claims:
    """Numbers of missing images, taken one by one: no two live processes get the same, and a fast one gets more.

    A claim ends with its process, so what a lost process had not finished is free for the next.

    Args:
        folder: Where they are missing.
        num_images: Images the folder shall hold.
        group_size: Images that are always made together, by one process.
    """

    def __init__(self, folder: SampleFolder, num_images: int, group_size: int = 1) -> None:
        self._folder, self._num_images, self._group_size = folder, num_images, group_size
        self._num_missing = folder.num_missing(num_images)

    def __len__(self) -> int:
        return self._num_missing

    def __iter__(self) -> Iterator[int]:
        held = -1
        for index in range(self._num_images):
            group = index // self._group_size
            if self._folder.is_done(index) or (group != held and not self._folder.locks.claim(group)):
                continue
            if group != held:
                # Another process may have finished it before we took it.
                held = group
                self._folder.read_on()
            if not self._folder.is_done(index):
                yield index
