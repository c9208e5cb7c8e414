from dataclasses import replace

import pytest
import torch

from medcli.data.datasets import open_training_set
from medcli.data.training_set import ArraySet
from medcli.runtime.reporting import Silent
from medcli.training import batches as batches_module
from medcli.training.batches import Batches, DataOrder
from medcli.training.train import train
from tests.unit.data.tiny_data import LATENTS, save_store
from tests.unit.training.runs import DATA, MODEL, RUN, fresh


def drawn(step, config=RUN, model=MODEL, **options):
    return Batches.of(DATA, config, model, **options).draw(step)


def test_a_batch_is_a_function_of_seed_and_step_and_rows_are_its_parts():
    whole = drawn(4)
    for rows in (range(3), range(3, 8)):
        part = drawn(4, rows=rows)
        assert all(torch.equal(a[rows.start : rows.stop], b) for a, b in zip(whole[:4], part[:4], strict=True))
        assert whole.counts[rows.start : rows.stop] == part.counts
    other = drawn(4, replace(RUN, seed=1))
    assert not torch.equal(whole.noise_BCYX, other.noise_BCYX)
    assert not torch.equal(whole.t_B, other.t_B)


def test_micro_batches_are_the_batch_in_pieces():
    whole = drawn(2, replace(RUN, ladder_rule="split"))
    pieces = list(whole.micro_batches(3))
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    for place in range(4):
        assert torch.equal(torch.cat([piece[place] for piece in pieces]), whole[place])
    assert sum((piece.counts for piece in pieces), ()) == whole.counts
    assert len(list(whole.micro_batches(None))) == 1


def test_an_epoch_visits_every_image_once():
    run = replace(RUN, label_dropout=0.0)
    data = torch.cat([drawn(step, run).data_BCYX for step in range(11)])  # 88 draws: 8 epochs of 11
    for epoch in data.split(11):
        assert len(epoch.flatten(1).unique(dim=0)) == 11
    assert not torch.equal(data[:11], data[11:22])


def test_the_order_of_an_epoch_does_not_depend_on_what_was_asked_before():
    order, positions = DataOrder(5, 3), torch.arange(40)
    straight = DataOrder(5, 3).picks(positions)
    for place in (39, 0, 17, 4, 22, 21, 38):
        assert order.picks(positions[place : place + 1]) == straight[place]


class Expecting:
    """The data, with what was expected and read."""

    def __init__(self, data):
        self.data, self.num_images, self.expected, self.was_read = data, data.num_images, [], []

    def expect(self, pick_B, position_B, seed):
        self.expected.append((pick_B.tolist(), position_B.tolist(), seed))

    def read(self, pick_B, position_B, seed):
        self.was_read.append((pick_B.tolist(), position_B.tolist(), seed))
        return self.data.read(pick_B, position_B, seed)


def large(num_images):
    return Expecting(ArraySet("large", torch.zeros(num_images, *DATA.shape_CYX), torch.zeros(num_images).long()))


@pytest.mark.parametrize("rows", [range(8), range(2, 5)])
def test_a_run_expects_the_batches_it_reads_in_their_order_up_to_its_last_one(rows):
    data, steps = large(64), range(3, 20)  # resumed after step 3, over three epochs
    batches = Batches.of(data, replace(RUN, steps=20), MODEL, rows=rows)
    for step in steps:
        batches.draw(step)
    assert data.expected == data.was_read[8:]
    whole = large(64)
    for step in range(20):
        Batches.of(whole, replace(RUN, steps=20), MODEL, rows=rows).draw(step)
    assert whole.was_read[3:] == data.was_read


def test_a_run_on_latents_read_ahead_is_the_same_after_a_restart(tmp_path):
    store, config = save_store(tmp_path / "store", [number % 3 for number in range(40)]), replace(RUN, counts=(0,))

    def weights(folder, *ends):
        for end in ends:
            model = fresh(LATENTS)
            data = open_training_set(str(store), LATENTS)
            train(model, data, replace(config, steps=end, save_every=3), tmp_path / folder, Silent())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights("whole", 9), weights("restarted", 3, 9))


def test_no_more_is_expected_than_an_epoch_holds_and_memory_allows(monkeypatch):
    for num_images, wanted in ((7, 0), (8, 1), (25, 3), (1000, 8)):
        assert Batches.of(large(num_images), RUN, MODEL)._steps_ahead == wanted
    monkeypatch.setattr(batches_module, "MAX_ROWS_AHEAD", 20)
    assert Batches.of(large(1000), RUN, MODEL)._steps_ahead == 2
    data = large(7)
    Batches.of(data, RUN, MODEL).draw(0)
    assert data.expected == []


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.8])  # at a half alone, dropping the others would look the same
def test_labels_are_dropped_to_the_null_class_at_the_stated_rate(rate):
    config = replace(RUN, label_dropout=rate)
    labels = torch.cat([drawn(step, config).label_B for step in range(100)])
    assert (labels == MODEL.null_class).float().mean().item() == pytest.approx(rate, abs=0.06 if rate else 0)


def test_times_are_native_to_the_family():
    sit, dit = (drawn(0, model=replace(MODEL, family=family)).t_B for family in ("sit", "dit"))
    assert sit.dtype == torch.float32
    assert dit.dtype == torch.int64
    torch.testing.assert_close(dit, (sit.double() * 1000).long(), atol=1, rtol=0)


def test_times_keep_to_the_interval_of_the_prediction():
    loss = replace(RUN.loss, prediction="noise", path="vp")
    plain, narrow = drawn(0).t_B, drawn(0, replace(RUN, loss=loss)).t_B
    assert not torch.equal(plain, narrow)
