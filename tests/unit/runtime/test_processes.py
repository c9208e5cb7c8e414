import pytest

from medcli.runtime.processes import LAUNCHERS, Part, Processes, launch_remark, this_process


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    others = ("MASTER_ADDR", "ACCELERATE_MIXED_PRECISION", "SLURM_JOB_ID", "SLURM_STEP_ID")
    for name in (*(name for names in LAUNCHERS for name in names), *others):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert this_process() == Processes(rank=0, count=1, local_rank=0)
    assert this_process().is_first
    assert this_process().is_alone


@pytest.mark.parametrize("names", LAUNCHERS)
def test_a_launcher_tells_rank_and_count(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(names, ("5", "8", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert this_process() == Processes(rank=5, count=8, local_rank=1)
    assert not this_process().is_first
    assert not this_process().is_alone


def test_a_launcher_that_started_one_process_of_several_is_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert launch_remark() is None
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch --cpu --num_processes 2
    assert "torchrun" in str(launch_remark())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch_remark() is None


def test_the_ranks_of_srun_are_read_and_those_of_a_batch_script_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert this_process() == Processes()  # a script of sbatch, which is rank 0 by its variables
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert this_process() == Processes(rank=9, count=16, local_rank=1)
    # srun --mpi=pmi2 sets both, without a local rank of PMI.
    monkeypatch.setenv("PMI_RANK", "9")
    monkeypatch.setenv("PMI_SIZE", "16")
    assert this_process() == Processes(rank=9, count=16, local_rank=1)
    # torchrun within Slurm.
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert this_process() == Processes(rank=3, count=4, local_rank=3)


def test_each_item_belongs_to_one_process_of_one_shard() -> None:
    parts = [Part(shard=shard, shards=3, rank=rank, ranks=4) for shard in range(3) for rank in range(4)]
    assert sorted(item for part in parts for item in part.of(1000)) == list(range(1000))
    assert sorted(item for part in parts if part.shard == 1 for item in part.of(1000)) == list(parts[4].of_launch(1000))
    assert max(len(part.of(1000)) for part in parts) - min(len(part.of(1000)) for part in parts) <= 1
    assert [other for other in parts if parts[4].is_of_launch(other)] == parts[5:8]
    assert [other for other in parts if parts[4].overlaps(other)] == parts[4:5]
    assert parts[4].overlaps(Part(shard=0, shards=2))
