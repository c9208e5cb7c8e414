"""Scores on a pretended GPU: the CPU's results, and rows that stay on the device."""

import torch

from medcli.scores import precision_recall as module
from medcli.scores.precision_recall import precision_recall
from tests.pretend.cuda import pretend_cuda


def test_precision_and_recall_send_their_columns_once_a_pass(monkeypatch):
    monkeypatch.setattr(module, "TILE_ROWS", 16)
    monkeypatch.setattr(module, "TILE_COLUMNS", 16)
    generator = torch.Generator().manual_seed(0)
    samples, reference = (torch.randn(num, 6, generator=generator) for num in (64, 48))
    expected = precision_recall(samples, reference)
    with pretend_cuda() as log:
        found = precision_recall(samples, reference, device=torch.device("cuda"))
    assert (found.num_samples_inside, found.num_references_inside) == (
        expected.num_samples_inside,
        expected.num_references_inside,
    )
    # Tiles of columns in three passes, tiles of rows in each; rows and their norms. Not rows times columns.
    placed = sum(times for (_, where), times in log.syncs.items() if where.startswith("scores/distances.py"))
    assert placed == 2 * ((4 + 4) + (3 + 3) + (4 + 3))
