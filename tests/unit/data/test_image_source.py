from __future__ import annotations

import torch

from medcli.data.image_source import ImageArray


def test_images_in_memory_are_a_source() -> None:
    images_NYXC = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 2, 2, 3)
    source = ImageArray.of("five", images_NYXC)
    assert [len(images) for images in source.read([range(2), range(3, 5)])] == [2, 2]
    assert torch.equal(torch.stack(next(source.read([range(5)]))), images_NYXC)
    assert (source.num_images, list(source.places), list(source.image_bytes)) == (5, [0, 1, 2, 3, 4], [12] * 5)
    assert source.identity(range(5)) is None
