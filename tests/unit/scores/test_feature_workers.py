"""One pass made by several processes: helpers, strangers, and those that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch

from medcli.data.bundled_set import bundled_pixels
from medcli.data.image_source import ImageArray
from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime.locks import HAS_LOCKS
from medcli.runtime.processes import Processes
from medcli.runtime.reporting import Silent
from medcli.scores.classifier import ClassifierExtractor
from medcli.scores.extractor import POOL
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.feature_workers import assist, plan_workers
from medcli.scores.features import FeatureSet, Wanted, extract, job_of
from medcli.scores.registry import load_extractor
from tests.unit.scores.corners import Corners, images

pytestmark = [
    pytest.mark.skipif(not HAS_LOCKS, reason="no file locks on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
LONGEST_S = 60.0
SHARD = 4
NUM = 4 * SHARD
WANTED = Wanted(gaussians=frozenset({POOL}), rows=frozenset({POOL}))


def wait_for(path: Path) -> bool:
    """Whether a file appears, waiting for it if need be."""
    end = time.monotonic() + LONGEST_S
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return path.exists()


class Waiting(Corners):
    """Does not go on until somebody says so."""

    def __init__(self, begun: Path, wanted: Path) -> None:
        super().__init__()
        self._begun, self._wanted = begun, wanted

    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        self._begun.touch()
        wait_for(self._wanted)
        return super().run(prepared)


def stranger(folder: Path) -> None:
    """Another program that makes the same pass: it takes two shards, one of them to read ahead, and is slow."""
    extractor = Waiting(folder / "begun", folder / "go")
    assist(job_of(images(NUM), extractor, batch_size=SHARD, cache=FeatureCache(folder, SHARD)))


@contextmanager
def beside(folder: Path) -> Iterator[ForkProcess]:
    process = multiprocessing.get_context("fork").Process(target=stranger, args=(folder,))
    process.start()
    try:
        assert wait_for(folder / "begun")
        yield process
    finally:
        process.kill()
        process.join()


def passed(folder: Path, extractor: Corners) -> FeatureSet:
    return extract(
        images(NUM), extractor, WANTED, batch_size=SHARD, reporter=Silent(), cache=FeatureCache(folder, SHARD)
    )


class Telling(Corners):
    """Calls somebody once it has worked."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().run(prepared)
        if self.num_calls == 2:
            self._tell()
        return found


def test_a_shard_that_another_program_works_on_is_waited_for(tmp_path: Path) -> None:
    with beside(tmp_path):
        extractor = Telling((tmp_path / "go").touch)
        found = passed(tmp_path, extractor)
    assert extractor.num_calls == 2  # of four shards
    assert torch.equal(found.rows[POOL], images(NUM).images_NYXC[:, 0, 0].float())


def test_the_shard_of_a_program_that_is_killed_is_taken_over(tmp_path: Path) -> None:
    with beside(tmp_path) as process:
        assert process.pid
        pid = process.pid
        extractor = Telling(lambda: os.kill(pid, signal.SIGKILL))
        found = passed(tmp_path, extractor)
    assert extractor.num_calls == 4
    assert torch.equal(found.rows[POOL], images(NUM).images_NYXC[:, 0, 0].float())


def test_helpers_work_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageArray.of("digits", torch.from_numpy(bundled_pixels("digits")[:24]))
    run, num_here = ClassifierExtractor.run, [0]

    def slow(self: ClassifierExtractor, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """Wait, here and not in the helper, until there is work of the helper's."""
        num_here[0] += 1
        if num_here[0] == 1:
            end = time.monotonic() + LONGEST_S
            while not list(tmp_path.rglob("*.safetensors")) and time.monotonic() < end:
                time.sleep(0.01)
        return run(self, prepared)

    alone = extract(source, load_extractor("digits"), WANTED, batch_size=SHARD, reporter=Silent())
    monkeypatch.setattr(ClassifierExtractor, "run", slow)
    shared = extract(
        source,
        load_extractor("digits"),
        WANTED,
        batch_size=SHARD,
        reporter=Silent(),
        cache=FeatureCache(tmp_path, SHARD),
        workers=plan_workers("cpu", 2),
    )
    assert num_here[0] < 6  # of six shards
    assert torch.equal(alone.rows[POOL], shared.rows[POOL])


def test_who_assists_computes_what_is_free_and_waits_for_nobody(tmp_path: Path) -> None:
    extractor = Corners()
    job = job_of(images(NUM), extractor, batch_size=SHARD, cache=FeatureCache(tmp_path, SHARD))
    with beside(tmp_path):
        assist(job)
    assert extractor.num_calls == 2
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_who_assists_and_can_not_write_leaves_the_work_to_the_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    extractor = Corners()
    assist(job_of(images(NUM), extractor, batch_size=SHARD, cache=FeatureCache(tmp_path / "file", SHARD)))
    assert not extractor.num_calls


def test_a_cache_that_can_not_be_written_to_costs_a_remark(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    reporter = Silent()
    reporter.note = said.append  # type: ignore[method-assign]
    cache = FeatureCache(tmp_path / "file", SHARD)
    found = extract(images(NUM), Corners(), WANTED, batch_size=SHARD, reporter=reporter, cache=cache)
    assert torch.equal(found.rows[POOL], images(NUM).images_NYXC[:, 0, 0].float())
    assert len(said) == 1
    assert said[0].startswith("features are not kept: ")


def test_entries_that_can_not_be_written_cost_one_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise EnvironmentProblem("the disk is full", hint="")

    said: list[str] = []
    reporter = Silent()
    reporter.note = said.append  # type: ignore[method-assign]
    monkeypatch.setattr(FeatureCache, "save", full)
    wanted = Wanted(gaussians=frozenset({POOL}), blocks=True)
    cache = FeatureCache(tmp_path, SHARD)
    found = extract(images(NUM), Corners(), wanted, batch_size=SHARD, reporter=reporter, cache=cache)
    assert said == ["features are not kept: the disk is full"]
    assert found.block_moments[POOL][0].num_rows == 1  # from memory, then


def test_all_that_live_meet_on_one_file_and_leave_none(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SHARD)
    job = job_of(images(NUM), Corners(), batch_size=SHARD, cache=cache)
    with job.share(cache):
        assert len(list(tmp_path.rglob("*.lock"))) == 1
    assert not list(tmp_path.rglob("*.lock"))


def test_devices_are_named_in_short_and_shared_in_turn() -> None:
    assert [str(device) for device in plan_workers("cpu,cpu", 3).devices] == ["cpu", "cpu", "cpu"]
    assert plan_workers("cpu").devices == (torch.device("cpu"),)
    with pytest.raises(ConfigError, match="1 workers for 2 devices"):
        plan_workers("cpu,cpu", 1)
    with pytest.raises(EnvironmentProblem, match="device cuda:17 is not available"):
        plan_workers("cuda:16,17" if torch.cuda.device_count() > 16 else "cpu,cuda:17")


def test_processes_on_one_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.scores.feature_workers.num_cores", lambda: 8)
    assert plan_workers("cpu", 3).num_threads == 2
    assert plan_workers("cpu", 20).num_threads == 1
    assert plan_workers("cpu").num_threads is None


def test_each_process_of_a_launch_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert plan_workers(launch=Processes(rank=6, count=8, local_rank=2)).devices == (torch.device("cuda", 2),)


def test_features_of_two_kinds_of_device_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="differ in their last digits") as caught:
        plan_workers("cpu,cuda:1")
    assert caught.value.hint
    assert [str(device) for device in plan_workers("cuda:0,1").devices] == ["cuda:0", "cuda:1"]
