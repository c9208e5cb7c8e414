"""What scores cost at full size, on one thread: `python -m tests.unit.scores.measure_scores WHAT`.

WHAT is `inception` (beside torch-fidelity's own network), `statistics`, `frechet`, or `pairs` (precision and recall of
50,000 against 50,000; minutes). Prints one JSON object; seconds are processor time of the thread.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medcli.runtime.memory import peak_memory_mib
from medcli.scores.fid import factored, frechet_deviations, frechet_distance
from medcli.scores.inception import load_inception
from medcli.scores.moments import Moments, RunningMoments
from medcli.scores.precision_recall import precision_recall
from medcli.scores.standard_error import random_blocks
from tests.golden.inception_support import fidelitys_own, random_weights

WIDTH, SPATIAL_WIDTH = 2048, 2023
NUM_IMAGES, NUM_ROUNDS = 8, 9
NUM_ROWS = 50_000
SHARD = 1024
CPU = torch.device("cpu")


def seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def rows(num: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Features that, as those of images do, vary in few directions much and in the rest a little."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0)) / 8
    found = torch.empty(num, WIDTH, dtype=dtype)
    for piece in found.split(SHARD):
        common, own = (torch.randn(len(piece), dim, generator=generator) for dim in (64, WIDTH))
        piece.copy_(torch.relu(common @ mixing + 0.2 * own))
    return found


def inception() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(random_weights(), path)
        ours, theirs = load_inception(path), fidelitys_own(path)
    size, generator = (NUM_IMAGES, 256, 256, 3), torch.Generator().manual_seed(0)
    images_BYXC = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    images_BCYX = images_BYXC.permute(0, 3, 1, 2).contiguous()
    found, (wanted, _) = ours.features(images_BYXC)["pool"], theirs(images_BCYX)
    pairs = [
        (seconds(lambda: ours.features(images_BYXC)), seconds(lambda: theirs(images_BCYX))) for _ in range(NUM_ROUNDS)
    ]
    return {
        "medcli_s_per_image": statistics.median(own for own, _ in pairs) / NUM_IMAGES,
        "torch_fidelity_s_per_image": statistics.median(other for _, other in pairs) / NUM_IMAGES,
        "median_ratio": statistics.median(other / own for own, other in pairs),
        "relative_error_of_norm": float((found - wanted).norm() / wanted.norm()),
        "largest_error_by_largest_feature": float((found - wanted).abs().max() / wanted.abs().max()),
    }


def streamed() -> dict[str, float | None]:
    """Memory of the statistics of both kinds, shard by shard, beside the shard itself."""
    shards = [torch.randn(SHARD, dim) for dim in (WIDTH, SPATIAL_WIDTH)]

    def stream() -> None:
        running = [RunningMoments(shard.shape[1]) for shard in shards]
        for _ in range(4):
            for kind, shard in zip(running, shards, strict=True):
                kind.add(shard)

    seconds(lambda: RunningMoments(8).add(torch.randn(9, 8)))  # libraries take memory when they are first used
    return {"peak_mib": peak_memory_mib(stream, CPU)}


def frechet() -> dict[str, float]:
    samples, few = rows(6000, 1), rows(64, 2)
    reference = Moments.of(rows(8000, 3)).gaussian()
    many, thin = Moments.of(samples).gaussian(), Moments.of(few).gaussian()
    whole, blocks = factored(reference), [Moments.of(samples[block]) for block in random_blocks(len(samples))]
    thin_blocks = [Moments.of(few[block]) for block in random_blocks(len(few))]
    return {
        "distance_s": seconds(lambda: frechet_distance(many, reference)),
        "distance_of_few_samples_s": seconds(lambda: frechet_distance(thin, whole)),
        "jackknife_s": seconds(lambda: frechet_deviations(many, blocks, whole)),
        "jackknife_of_few_samples_s": seconds(lambda: frechet_deviations(thin, thin_blocks, whole)),
    }


def pairs() -> dict[str, float]:
    samples, reference = rows(NUM_ROWS, 1, torch.float32), rows(NUM_ROWS, 2, torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    counts = precision_recall(samples, reference)
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "seconds": time.thread_time() - start,
        "resident_mib_with_the_features": before / 1024,
        "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = {"inception": inception, "statistics": streamed, "frechet": frechet, "pairs": pairs}[sys.argv[1]]()
    print(json.dumps(measured, indent=2))
