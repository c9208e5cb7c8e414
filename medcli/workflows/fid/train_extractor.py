"""Train a small classifier on a labelled folder, as the feature extractor of scores on one's own data."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional

from medcli.data.image_listing import ImageListing, list_images
from medcli.data.image_set import network_inputs, read_squares
from medcli.data.pixel_format import PixelFormat, pixel_format
from medcli.errors import ConfigError, DataError
from medcli.runtime.files import atomic_path, file_sha256, refuse_existing
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter
from medcli.scores.classifier import MOST_HALVINGS, SMALLEST_PX, SmallClassifier
from medcli.settings.scoring import FidRequest

HELD_OUT_EVERY = 10
"""One image in so many of each class is held out, and one of a smaller class."""
NUM_EPOCHS, BATCH_SIZE, LR = 6, 128, 3e-3
SEED = 0
READ_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorReport:
    """A trained feature extractor."""

    output: str
    num_images: int
    """Images trained on."""
    num_held_out: int
    num_classes: int
    side_px: int
    """Side of the network's input, in pixels."""
    held_out_accuracy: float
    """Share of the held-out images classified right, in [0, 1]."""
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return json_fields(self)


def train_extractor(request: FidRequest, reporter: Reporter) -> ExtractorReport:
    """Train a classifier and write it; the same machine writes the same bytes again.

    Args:
        request: Its `train_extractor` is the folder, its `output` the file.

    Raises:
        ConfigError: If the file exists and `force` is off.
        DataError: If the folder holds no labelled images, one class, or no class of two images.
        EnvironmentProblem: If the file can't be written.
    """
    folder = request.train_extractor
    assert folder is not None
    output = request.output or Path(f"{Path(realpath(folder)).name}-classifier.safetensors")
    refuse_existing(output, force=request.force)
    if Path(realpath(output)).is_relative_to(realpath(folder)):
        raise ConfigError(f"{output} is among the images of {folder}", hint="choose another name with --output")
    listing, form = list_images(folder, reporter), pixel_format(folder)
    if form is None or listing.num_classes < 2:
        raise DataError(
            f"{folder} holds images of one class", hint="a classifier needs a sub-folder for each of several"
        )
    train_N, held_out_N = _split(listing.labels_N)
    if not len(held_out_N):
        raise DataError(f"{folder} holds one image of each class", hint="a classifier needs several of each")
    network = _network(listing, form)
    images_NCYX = _pixels(listing, network, reporter)
    labels_N = torch.from_numpy(listing.labels_N)
    network = _fitted(network, images_NCYX, labels_N, train_N, reporter)
    accuracy = _accuracy(network, images_NCYX, labels_N, held_out_N)
    about = {"num_images": len(train_N), "held_out_accuracy": accuracy, "num_held_out": len(held_out_N)}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(output, force=request.force) as temporary:
        temporary.write_bytes(save(tensors, metadata={"medcli": json.dumps(about, sort_keys=True)}))
    return ExtractorReport(
        output=str(output),
        num_images=len(train_N),
        num_held_out=len(held_out_N),
        num_classes=listing.num_classes,
        side_px=network.side_px,
        held_out_accuracy=accuracy,
        sha256=file_sha256(output),
    )


def _network(listing: ImageListing, form: PixelFormat) -> SmallClassifier:
    """Build a network of the images' side, rounded up, and their channels; torch's generator is left alone."""
    side = form.side_px or SMALLEST_PX * 2**MOST_HALVINGS
    halvings = min(MOST_HALVINGS, max(0, math.ceil(math.log2(side / SMALLEST_PX))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return SmallClassifier(1 if form.is_grey else 3, listing.num_classes, halvings)


def _pixels(listing: ImageListing, network: SmallClassifier, reporter: Reporter) -> torch.Tensor:
    """Read all images, cropped to squares of the network's side: (N, C, Y, X) uint8."""
    side, channels = network.side_px, network.channels
    images_NCYX = torch.empty(listing.num_images, channels, side, side, dtype=torch.uint8)
    for start in range(0, listing.num_images, READ_AT_ONCE):
        numbers = range(start, min(start + READ_AT_ONCE, listing.num_images))
        files = [listing.path(number) for number in numbers]
        images_NCYX[numbers.start : numbers.stop] = read_squares(files, side, channels)
        reporter.progress(numbers.stop, listing.num_images, "images")
    return images_NCYX


def _split(labels_N: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of the images to train on and of those held out.

    Every tenth image of a class is held out, the last of a class of 2 to 9, none of a single image.
    """
    is_held_out = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        numbers = np.flatnonzero(labels_N == label)
        is_held_out[numbers[max(1, min(HELD_OUT_EVERY, len(numbers)) - 1) :: HELD_OUT_EVERY]] = True
    train, held_out = (torch.from_numpy(np.flatnonzero(part)) for part in (~is_held_out, is_held_out))
    return train, held_out


def _fitted(
    network: SmallClassifier,
    images_NCYX: torch.Tensor,
    labels_N: torch.Tensor,
    train_N: torch.Tensor,
    reporter: Reporter,
) -> SmallClassifier:
    """Train the network, every other batch mirrored; batches are drawn from a generator of their own."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.02)
    num_steps = NUM_EPOCHS * math.ceil(len(train_N) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=num_steps)
    done = 0
    for _ in range(NUM_EPOCHS):
        for place_B in torch.split(torch.randperm(len(train_N), generator=generator), BATCH_SIZE):
            batch_B = train_N[place_B]
            inputs_BCYX = network_inputs(images_NCYX[batch_B])
            logits_BK = network(inputs_BCYX.flip(-1) if done % 2 else inputs_BCYX)[1]
            loss = functional.cross_entropy(logits_BK, labels_N[batch_B], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            reporter.progress(done, num_steps, "steps")
    return network.requires_grad_(False).eval()


def _accuracy(
    network: SmallClassifier, images_NCYX: torch.Tensor, labels_N: torch.Tensor, number_N: torch.Tensor
) -> float:
    """Return the share of images classified right."""
    right = [
        (network(network_inputs(images_NCYX[part]))[1].argmax(dim=1) == labels_N[part]).sum()
        for part in torch.split(number_N, READ_AT_ONCE)
    ]
    return float(torch.stack(right).sum()) / len(number_N)
