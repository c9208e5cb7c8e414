"""Build the bundled digits files: `python docs/scripts/digits_assets.py images|classifier|reference`.

The classifier is trained on real digits only and never sees the generator, so its scores of samples are independent.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional

from medcli.data.assets import CLASSIFIER, IMAGES, REFERENCE, asset_path
from medcli.data.bundled_set import bundled_images, bundled_pixels
from medcli.data.image_source import ImageArray
from medcli.errors import ConfigError
from medcli.runtime.files import atomic_path
from medcli.runtime.reporting import Silent
from medcli.scores.classifier import SMALLEST_PX, SmallClassifier, classifier_inputs
from medcli.scores.extractor import POOL
from medcli.scores.features import Wanted, extract
from medcli.scores.reference import bundled_bytes
from medcli.scores.registry import load_extractor

NUM_HELD_OUT = 360
"""Number of digits held out of training, a fifth of them."""
SPLIT_SEED = 0
"""Seed of the split; separate from the training seed, so that every training seed is tested on the same digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierTraining:
    """Hyperparameters of the bundled classifier."""

    num_epochs: int = 60
    """Passes over the training digits."""
    batch_size: int = 64
    """Digits per optimiser step."""
    lr: float = 2e-3
    """Highest learning rate of AdamW; it falls to zero along a cosine."""
    weight_decay: float = 0.02
    """Decoupled weight decay of AdamW."""
    noise: float = 0.15
    """Standard deviation of the Gaussian noise added to pixels in [-1, 1]."""
    max_shift_px: float = 0.75
    """Largest shift in each direction, in pixels of 8."""
    max_turn_rad: float = 0.15
    """Largest rotation either way, in radians."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""


def held_out_split() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices (int64) of the training digits and of the held-out digits."""
    order = torch.randperm(len(bundled_images("digits")[0]), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[NUM_HELD_OUT:], order[:NUM_HELD_OUT]


def train_classifier(training: ClassifierTraining) -> tuple[SmallClassifier, float]:
    """Train on four fifths of the digits.

    Returns:
        The network and its held-out accuracy, in [0, 1].
    """
    images = classifier_inputs(torch.from_numpy(bundled_pixels("digits")), 1, SMALLEST_PX)
    labels = torch.from_numpy(bundled_images("digits")[1]).long()
    train_indices, held_out_indices = held_out_split()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = SmallClassifier(1, 10, 0)
        _fit(network, images[train_indices], labels[train_indices], training)
    network.requires_grad_(False)
    predicted = network(images[held_out_indices])[1].argmax(dim=1)
    return network, float((predicted == labels[held_out_indices]).double().mean())


def _fit(network: SmallClassifier, images: torch.Tensor, labels: torch.Tensor, training: ClassifierTraining) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    num_steps = training.num_epochs * -(-len(images) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, total_steps=num_steps)
    for _ in range(training.num_epochs):
        for batch in torch.split(torch.randperm(len(images)), training.batch_size):
            logits = network(_augment(images[batch], training))[1]
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _augment(images_B1YX: torch.Tensor, training: ClassifierTraining) -> torch.Tensor:
    """Rotate and shift each digit a little, then add noise; pixels from outside the image are empty (-1)."""
    num_images, _, _, side = images_B1YX.shape
    angle_B = (torch.rand(num_images) * 2 - 1) * training.max_turn_rad
    shift_B2 = (torch.rand(num_images, 2) * 2 - 1) * training.max_shift_px * 2 / side
    turn_B22 = torch.stack([angle_B.cos(), -angle_B.sin(), angle_B.sin(), angle_B.cos()], dim=1).view(-1, 2, 2)
    affine_B23 = torch.cat([turn_B22, shift_B2.unsqueeze(2)], dim=2)
    grid = functional.affine_grid(affine_B23, list(images_B1YX.shape), align_corners=False)
    moved_B1YX = functional.grid_sample(images_B1YX + 1, grid, align_corners=False) - 1
    return moved_B1YX + training.noise * torch.randn_like(moved_B1YX)


def make_classifier(target: Path) -> dict[str, object]:
    """Train the classifier and write it; the same machine writes the same bytes again."""
    training = ClassifierTraining()
    network, accuracy = train_classifier(training)
    about = {"training": asdict(training), "held_out_accuracy": accuracy, "num_held_out": NUM_HELD_OUT}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(target, force=True) as temporary:
        temporary.write_bytes(save(tensors, metadata={"medcli": json.dumps(about, sort_keys=True)}))
    return about


def make_images(target: Path) -> dict[str, object]:
    """Write the digits as uint8 images and labels. Needs scikit-learn, which carries them and is no dependency."""
    from sklearn.datasets import load_digits as scikit_learns

    digits = scikit_learns()
    images, labels = digits.images.astype("uint8"), digits.target.astype("uint8")
    with atomic_path(target, force=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels, max_level=np.array(16))
    return {"num_images": len(images)}


def make_reference(target: Path) -> dict[str, object]:
    """Write the features of all digits under the bundled classifier, and their statistics."""
    extractor = load_extractor("digits")
    digits = ImageArray.of("digits", torch.from_numpy(bundled_pixels("digits")))
    wanted = Wanted(gaussians=frozenset({POOL}), rows=frozenset({POOL}))
    features = extract(digits, extractor, wanted, batch_size=256, reporter=Silent())
    with atomic_path(target, force=True) as temporary:
        temporary.write_bytes(bundled_bytes(features, extractor))
    return {"num_images": digits.num_images, "extractor_sha256": extractor.weights_sha256}


def main(argv: list[str]) -> None:
    """Make one asset: `images`, `classifier` or `reference`, optionally followed by the file to write."""
    # One thread: sums are then taken in one order, so the file is the same whatever the number of cores.
    torch.set_num_threads(1)
    makers = {
        "images": (make_images, f"digits{IMAGES}"),
        "classifier": (make_classifier, f"digits{CLASSIFIER}"),
        "reference": (make_reference, f"digits{REFERENCE}"),
    }
    if not argv or argv[0] not in makers:
        raise ConfigError(f"say which asset to make: {', '.join(makers)}")
    make, name = makers[argv[0]]
    about = make(Path(argv[1]) if len(argv) > 1 else asset_path(name))
    sys.stdout.write(json.dumps(about, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
