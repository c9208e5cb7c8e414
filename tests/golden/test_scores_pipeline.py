"""The golden images through the network with random weights and the command: every score, from any form of the images.

Numbers and their origin: data/golden-metrics (expected_inception.json, README).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medcli.errors import ExitCode
from medcli.scores.inception import InceptionExtractor
from tests.conftest import RunCli
from tests.golden.inception_support import METRICS, expected
from tests.golden.test_metrics import arrays
from tests.golden.test_metrics import inception_weights as inception_weights  # a fixture, used by name

SAMPLES, REFERENCE = METRICS / "e2e_samples.npz", METRICS / "e2e_reference.npz"
GOLDEN = expected("expected_inception.json")["end_to_end"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all of this file: the network is slow."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module", autouse=True)
def each_image_once() -> Iterator[None]:
    """Run the network, which is slow, once for each prepared image of this file."""
    run, rows = InceptionExtractor.run, dict[bytes, dict[str, torch.Tensor]]()

    def remembered(self: InceptionExtractor, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        keys = [hashlib.sha256(image.numpy().tobytes()).digest() for image in prepared]
        if new := [place for place, key in enumerate(keys) if key not in rows]:
            found = run(self, prepared[new])
            rows.update((keys[place], {kind: found[kind][row] for kind in found}) for row, place in enumerate(new))
        return {kind: torch.stack([rows[key][kind] for key in keys]) for kind in rows[keys[0]]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InceptionExtractor, "run", remembered)
        yield


def scored(run_cli: RunCli, weights: Path, samples: Path, reference: Path, *options: Any) -> dict[str, Any]:
    result = run_cli("fid", samples, reference, "--extractor-weights", weights, "--json", *options)
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was(
    inception_weights: Path, kept: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = InceptionExtractor.run, [0]

    def counted(self: InceptionExtractor, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        seen[-1] += len(prepared)
        if len(seen) == 1 and seen[0] > 30:  # the reference is done, the samples are begun
            raise KeyboardInterrupt
        return run(self, prepared)

    monkeypatch.setattr(InceptionExtractor, "run", counted)
    options = ("--extractor-weights", inception_weights, "--cache-dir", kept)
    assert run_cli("fid", SAMPLES, REFERENCE, *options).code == ExitCode.INTERRUPTED
    seen.append(0)
    found = scored(run_cli, inception_weights, SAMPLES, REFERENCE, "--cache-dir", kept)
    assert 22 <= seen[-1] < 26  # the samples alone; a last call may be filled up
    assert found["fid"] == pytest.approx(GOLDEN["fid"]["exact_f64_net"], rel=2e-4)
    assert found["sfid"] == pytest.approx(GOLDEN["sfid"]["exact_f64_net"], rel=2e-4)
    excess = GOLDEN["inception_score"]["exact_f64_net"] - 1
    assert found["inception_score"] - 1 == pytest.approx(excess, rel=1e-3)
    assert (found["precision"], found["recall"]) == (GOLDEN["precision"], GOLDEN["recall"])
    assert found["kid"] == pytest.approx(GOLDEN["kid_poly3_unbiased_full"], rel=1e-3)


def test_the_roles_swapped_give_the_swapped_scores(inception_weights: Path, kept: Path, run_cli: RunCli) -> None:
    found = scored(run_cli, inception_weights, REFERENCE, SAMPLES, "--cache-dir", kept)
    golden = GOLDEN["swapped"]
    assert found["fid"] == pytest.approx(golden["fid"], rel=2e-4)
    assert found["sfid"] == pytest.approx(GOLDEN["sfid"]["exact_f64_net"], rel=2e-4)
    assert found["inception_score"] - 1 == pytest.approx(golden["inception_score_of_reference"] - 1, rel=1e-3)
    assert (found["precision"], found["recall"]) == (golden["precision"], golden["recall"])
    assert found["kid"] == pytest.approx(GOLDEN["kid_poly3_unbiased_full"], rel=1e-3)
    assert set(found["standard_errors"]) == {"fid", "sfid", "inception_score", "precision", "recall", "kid"}


def test_a_written_reference_scores_as_its_images_do(
    inception_weights: Path, kept: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    """All four statistics and the images, from PNGs in unpadded names and any order of writing."""
    folder, target = tmp_path / "reference", tmp_path / "reference.npz"
    folder.mkdir()
    for index, image in reversed(list(enumerate(arrays(REFERENCE.name)["arr_0"].numpy()))):
        Image.fromarray(image).save(folder / f"{index}.png")
        os.utime(folder / f"{index}.png", (1000 + index % 7, 1000 + index % 7))
    weights = ("--extractor-weights", inception_weights, "--batch-size", 7, "--cache-dir", kept)
    result = run_cli("fid", folder, "--write-reference", target, *weights, "--json")
    assert result.code == 0, result.err
    with np.load(target) as archive:
        shapes = {key: archive[key].shape for key in ("arr_0", "mu", "sigma", "mu_s", "sigma_s")}
    assert shapes == {
        "arr_0": (26, 32, 32, 3),
        "mu": (2048,),
        "sigma": (2048, 2048),
        "mu_s": (2023,),
        "sigma_s": (2023, 2023),
    }
    result = run_cli("fid", SAMPLES, target, "--extractor-weights", inception_weights, "--json", "--cache-dir", kept)
    assert result.code == 0, result.err
    assert "fewer samples than dimensions" in result.err
    found = json.loads(result.out)
    assert (found["num_samples"], found["num_reference"], found["extractor"]) == (22, 26, "inception")
    assert found["fid"] == pytest.approx(GOLDEN["fid"]["exact_f64_net"], rel=2e-4)
    assert found["sfid"] == pytest.approx(GOLDEN["sfid"]["exact_f64_net"], rel=2e-4)
    assert (found["precision"], found["recall"]) == (GOLDEN["precision"], GOLDEN["recall"])
    assert found["kid"] == pytest.approx(GOLDEN["kid_poly3_unbiased_full"], rel=1e-3)


def test_a_reference_of_other_weights_is_refused(inception_weights: Path, tmp_path: Path, run_cli: RunCli) -> None:
    target = tmp_path / "reference.npz"
    note = {"extractor": "inception", "extractor_sha256": "0" * 64, "num_images": 26}
    np.savez(target, mu=np.zeros(2048), sigma=np.eye(2048), medcli=np.array(json.dumps(note)))
    result = run_cli("fid", SAMPLES, target, "--extractor-weights", inception_weights)
    assert result.code == ExitCode.DATA
    assert "holds features of inception (00000000)" in result.err
