import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medcli.errors import CheckpointError, MedcliError
from medcli.training.checkpoints import KEY, open_training_checkpoint, read_header, write_checkpoint
from tests.unit.training.runs import RUN, Told, last_state, run, same_average, same_tensors


def names(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "flipped":
        data[-100] ^= 1
    else:
        data = b"not a state"
    path.write_bytes(data)


def test_the_newest_states_are_kept(tmp_path):
    run(tmp_path, steps=8, save_every=2, keep_last=3)
    assert names(tmp_path) == [f"state-0000000{step}.safetensors" for step in (4, 6, 8)]


def test_there_is_a_state_before_the_first_step(tmp_path):
    run(tmp_path, steps=2, keep_last=9)
    assert names(tmp_path) == ["state-00000000.safetensors", "state-00000002.safetensors"]


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "other"])
def test_a_damaged_newest_state_is_named_and_the_one_before_used(tmp_path, how):
    straight = run(tmp_path / "a", steps=8)
    run(tmp_path / "b", steps=6)
    spoil(last_state(tmp_path / "b"), how)
    told = Told()
    resumed = run(tmp_path / "b", told=told, steps=8)
    assert same_average(straight, resumed)
    assert "state-00000006.safetensors" in told.notes[0]
    assert told.notes[0].endswith("; using the one before it")
    assert "resuming from step 3" in told.notes[1]


def test_states_that_are_all_damaged_stop_the_run_and_are_kept(tmp_path):
    run(tmp_path, steps=6)
    for path in tmp_path.glob("state-*"):
        spoil(path, "cut")
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match="none of 2 training checkpoints can be read") as caught:
        run(tmp_path, steps=8)
    assert "--resume never" in caught.value.hint
    assert names(tmp_path) == before


def test_never_starts_over(tmp_path):
    first = run(tmp_path / "a", steps=4)
    run(tmp_path / "b", steps=6, lr=1e-3)
    again = run(tmp_path / "b", steps=4, resume="never")
    assert same_average(first, again)
    assert names(tmp_path / "b") == names(tmp_path / "a")
    lines = (tmp_path / "b/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_a_path_is_where_the_run_starts(tmp_path):
    straight = run(tmp_path / "a", steps=9, keep_last=9)
    state = tmp_path / "a/state-00000003.safetensors"
    elsewhere = run(tmp_path / "b", steps=9, resume=str(state))
    assert same_average(straight, elsewhere)
    there, here = (read_header(tmp_path / name / "state-00000009.safetensors") for name in ("a", "b"))
    assert here.journal.pop("resumed_from") == {"checkpoint": str(state), "step": 3, "changed": {}}
    assert here == there
    from_folder = run(tmp_path / "c", steps=9, resume=str(tmp_path / "a"))
    assert same_average(straight, from_folder)


def test_going_back_drops_the_states_beyond(tmp_path):
    run(tmp_path, steps=9, keep_last=9)
    run(tmp_path, steps=4, keep_last=9, resume=str(tmp_path / "state-00000003.safetensors"))
    assert names(tmp_path) == [f"state-0000000{step}.safetensors" for step in (0, 3, 4)]


@pytest.mark.parametrize("where", ["missing.safetensors", "."])
def test_a_path_without_a_state_is_refused(tmp_path, where):
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError):
        run(tmp_path / "b", resume=str(tmp_path / "a" / where))


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    run(tmp_path, steps=3)
    (tmp_path / ".state-00000006.tmp-12345.safetensors").write_bytes(b"half")
    run(tmp_path, steps=6)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_state_holds_weights_averages_and_adams_memory_of_each_parameter(tmp_path):
    run(tmp_path, steps=3, counts=(4,))
    tensors = load_file(last_state(tmp_path))
    trained = [name.removeprefix("ema.") for name in tensors if name.startswith("ema.")]
    assert "pos_embed" not in trained
    # Tables of a count that was never trained have no memory.
    unused = {name for name in trained if ".ladder.1." in name}
    assert unused
    for kind in ("step", "exp_avg", "exp_avg_sq"):
        assert {name for name in trained if f"{kind}.{name}" in tensors} == set(trained) - unused


def test_each_parameter_counts_its_own_updates(tmp_path):
    run(tmp_path, steps=6)
    tensors = load_file(last_state(tmp_path))
    steps = {name: float(value) for name, value in tensors.items() if name.startswith("step.")}
    assert steps["step.blocks.0.mlp.fc1.weight"] == 6
    tables = {count for name, count in steps.items() if ".ladder." in name}
    assert max(tables) < 6


def test_a_state_reads_back_as_it_was_written(tmp_path):
    run(tmp_path, steps=3)
    path = last_state(tmp_path)
    with open_training_checkpoint(path) as (header, read):
        assert header.journal["done"] == 3
        assert header.run["lr"] == RUN.lr
        assert [row[0] for row in header.journal["rows"]] == [1, 2, 3]
        assert all(read(key).numel() for key in header.keys)
    run(tmp_path / "again", steps=3)
    assert same_tensors(path, last_state(tmp_path / "again"))


PLACES = [
    ("run",), ("journal",), ("scaler",), ("keys",), ("checksum",),
    ("journal", "done"), ("journal", "rows"), ("journal", "troubles"), ("run", "model"), ("run", "data"), ("run", "lr"),
]  # fmt: skip
ODD_VALUES = [None, "x", -1, 10**30, 1.5, True, [], {}, [[]], [["x"]], {"a": {"b": []}}, ["model.x"], [1], float("inf")]


@pytest.fixture(scope="module")
def good_state(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    run(folder, steps=3)
    return folder / "state-00000003.safetensors"


@pytest.mark.parametrize("place", PLACES)
def test_headers_that_were_tampered_with_are_refused_in_words(tmp_path, good_state, place):
    """Each part of a header replaced by each odd value: a clear refusal, or a run that goes on; never a traceback."""
    with safe_open(good_state, "pt") as file:
        header = json.loads(file.metadata()[KEY])
    tensors = load_file(good_state)
    for number, value in enumerate(ODD_VALUES):
        changed = json.loads(json.dumps(header))
        part = changed if len(place) == 1 else changed[place[0]]
        part[place[-1]] = value
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(tensors, folder / good_state.name, metadata={KEY: json.dumps(changed)})
        told, refusals = Told(), list[MedcliError]()
        try:
            run(folder, told=told, steps=3)
        except MedcliError as err:
            refusals.append(err)
        for refusal in refusals:
            assert "\n" not in refusal.message
            assert refusal.hint


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "moment"])
def test_tensors_of_another_network_are_refused_by_name(tmp_path, good_state, change):
    with safe_open(good_state, "pt") as file:
        header = json.loads(file.metadata()[KEY])
    tensors = load_file(good_state)
    name = "model.blocks.0.mlp.fc1.weight"
    match change:
        case "missing":
            del tensors[name]
        case "unknown":
            name = "model.other"
            tensors[name] = torch.zeros(2)
        case "shape":
            tensors[name] = torch.zeros(3)
        case "moment":
            name = "exp_avg.blocks.0.mlp.fc1.weight"
            tensors[name] = torch.zeros(3)
    state = tmp_path / good_state.name
    write_checkpoint(state, tensors, run=header["run"], journal=header["journal"], scaler=header["scaler"])
    with pytest.raises(CheckpointError, match=f"does not fit this run: its tensor {name}"):
        run(tmp_path, steps=4)
