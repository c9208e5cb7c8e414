import json
import re
from dataclasses import replace

import pytest
import torch

from medcli.data.training_set import ArraySet
from medcli.errors import ConfigError, DataError
from medcli.runtime.reporting import Silent
from medcli.training.config import TrainConfig
from medcli.training.objective import LossConfig
from medcli.training.train import has_idle_parameters, train
from tests.unit.training.runs import DATA, MODEL, RUN, Told, fresh, last_state, run, same_average, same_tensors
from tests.unit.training.small_models import EDT_MODEL, LADDER_MODEL, MDT_MODEL, shaken

TIMED = "images_per_sec"


def lines_of(folder):
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != TIMED} for line in lines]


@pytest.mark.parametrize("rule", ["sandwich", "split"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, rule):
    straight = run(tmp_path / "a", steps=20, ladder_rule=rule)
    run(tmp_path / "b", steps=10, ladder_rule=rule)
    resumed = run(tmp_path / "b", steps=20, ladder_rule=rule)
    assert same_average(straight, resumed)
    assert last_state(tmp_path / "a").read_bytes() == last_state(tmp_path / "b").read_bytes()
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")


def test_a_log_line_that_spans_a_resume_holds_the_steps_before_it(tmp_path):
    run(tmp_path / "a", steps=12, log_every=5)
    for steps in (7, 11, 12):
        run(tmp_path / "b", steps=steps, log_every=5)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    assert [line["step"] for line in lines_of(tmp_path / "b")] == [5, 10, 12]


def test_log_lines_beyond_the_saved_state_are_written_again(tmp_path):
    run(tmp_path / "a", steps=6)
    run(tmp_path / "b", steps=3)
    with (tmp_path / "b/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 1}\n{"step": 6, "loss": 2}\n{"step": 7, "lo')
    run(tmp_path / "b", steps=6)
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")


@pytest.mark.parametrize("family", ["sit", "dit"])
def test_training_lowers_the_loss(tmp_path, family):
    settings = replace(RUN, steps=60, log_every=20, label_dropout=0.0)
    train(fresh(replace(MODEL, family=family)), DATA, settings, tmp_path, Silent())
    losses = [line["loss"] for line in lines_of(tmp_path)]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


def test_the_first_step_has_the_rate_of_its_warm_up_and_moves_the_average_far(tmp_path):
    """AdamW's first step moves a weight by the rate; steps 2 and 3 are left out."""
    settings = replace(RUN, steps=3, lr=1e-3, lr_warmup=2, ema=0.9999, skip_steps=(2, 3), grad_clip=1e9)
    start, model = dict(fresh(MODEL).named_parameters()), fresh(MODEL)
    averaged = train(model, DATA, settings, tmp_path, Silent()).ema
    moves = {name: value.detach() - start[name].detach() for name, value in model.named_parameters()}
    assert max(float(move.abs().max()) for move in moves.values()) == pytest.approx(settings.lr / 2, rel=0.01)
    for name, move in moves.items():
        torch.testing.assert_close(averaged[name] - start[name], 9 / 11 * move, rtol=1e-3, atol=1e-7)


def test_what_is_logged_is_the_mean_over_the_steps_since_the_last_line(tmp_path):
    run(tmp_path / "each", log_every=1)
    run(tmp_path / "pairs", log_every=2)
    each, pairs = lines_of(tmp_path / "each"), lines_of(tmp_path / "pairs")
    assert [line["step"] for line in each] == [1, 2, 3, 4, 5, 6]
    for place, pair in enumerate(pairs):
        for key in ("loss", "grad_norm"):
            mean = sum(line[key] for line in each[2 * place : 2 * place + 2]) / 2
            assert pair[key] == pytest.approx(mean, abs=2e-6)


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("rule", ["sandwich", "split"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, size, rule):
    whole = run(tmp_path / "whole", ladder_rule=rule)
    pieces = run(tmp_path / "pieces", ladder_rule=rule, micro_batch_size=size)
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, value in whole.ema.items():
        torch.testing.assert_close(learned(name, pieces.ema[name]), learned(name, value), rtol=1e-3, atol=2e-5)


def learned(name, value):
    """What the loss decides: softmax ignores the bias of the keys, so Adam moves that by rounding errors alone."""
    if not name.endswith("qkv.bias"):
        return value
    queries, _, values = value.chunk(3)
    return torch.cat([queries, values])


def test_running_blocks_again_changes_no_bit(tmp_path):
    assert same_average(run(tmp_path / "a"), run(tmp_path / "b", checkpoint_activations=True))


def test_narrow_products_stay_near_float32(tmp_path):
    exact, narrow = run(tmp_path / "a", steps=3), run(tmp_path / "b", steps=3, dtype="bf16")
    assert narrow.loss == pytest.approx(exact.loss, rel=0.02)
    assert not same_average(exact, narrow)
    assert all(value.dtype == torch.float32 for value in narrow.ema.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch means to hide it, and would
@pytest.mark.parametrize(("counts", "num_graphs"), [((4,), 1), ((0, 1, 4), 2)])
def test_compiled_blocks_learn_the_same_and_share_graphs(tmp_path, monkeypatch, counts, num_graphs):
    asked, compiled = [], torch.compile

    # The compiler proper takes minutes; tracing without it sees whether the network can be traced.
    def traced(function, *, dynamic):
        asked.append(dynamic)
        return compiled(function, dynamic=dynamic, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    plain = run(tmp_path / "a", steps=2, counts=counts)
    traced = run(tmp_path / "b", steps=2, counts=counts, compile=True, checkpoint_activations=True)
    assert asked == [False] * num_graphs
    for name, value in plain.ema.items():
        torch.testing.assert_close(traced.ema[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (LADDER_MODEL, (0, 1, 4)),
        (LADDER_MODEL, (4,)),
        (replace(LADDER_MODEL, mediators=(4,)), (4,)),
        (replace(LADDER_MODEL, mediators=(4,)), (0, 4)),
        (replace(LADDER_MODEL, mediators=(), mediator_layers=()), (0,)),
        (EDT_MODEL, (0,)),
        (MDT_MODEL, (0,)),
    ],
)
def test_idle_parameters_are_those_that_some_pass_gives_no_gradient(config, counts):
    model, is_idle = shaken(config), False
    time = torch.full((2,), 0.5) if config.family == "sit" else torch.tensor([5, 500])
    latent = torch.randn(2, config.in_channels, config.latent_size, config.latent_size)
    for count in counts:
        model.zero_grad()
        model(latent, time, torch.tensor([0, 1]), count).sum().backward()
        is_idle |= any(value.grad is None for value in model.parameters() if value.requires_grad)
    assert has_idle_parameters(config, TrainConfig(steps=1, counts=counts)) == is_idle


def test_frozen_parameters_stay_and_cost_nothing(tmp_path):
    model = fresh()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".attn." in name)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = train(model, DATA, RUN, tmp_path, Silent())
    for name, value in model.named_parameters():
        is_trained = ".attn." in name
        assert torch.equal(value, before[name]) == torch.equal(result.ema[name], before[name])
        assert is_trained or torch.equal(value, before[name])
    from safetensors import safe_open

    with safe_open(last_state(tmp_path), framework="pt") as file:
        assert all(".attn." in name for name in file.keys() if not name.startswith("model."))  # noqa: SIM118


def test_a_teacher_is_learned_from(tmp_path):
    teacher = shaken(replace(MODEL, mediators=(), mediator_layers=()))
    settings = replace(RUN, loss=LossConfig(distill=0.5))
    taught = train(fresh(), DATA, settings, tmp_path / "a", Silent(), teacher=teacher)
    assert not same_average(taught, run(tmp_path / "b"))
    with pytest.raises(ConfigError, match="without a teacher"):
        train(fresh(), DATA, settings, tmp_path / "c", Silent())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 1e-3}, "lr 0.01, not 0.001"),
        ({"counts": (0, 4), "seed": 2}, "mediator counts 0,1,4, not 0,4; seed 0, not 2"),
        ({"loss": LossConfig(prediction="noise")}, "prediction velocity, not noise"),
        ({"ladder_rule": "split"}, "ladder rule sandwich, not split"),
    ],
)
def test_a_run_with_other_settings_is_not_continued(tmp_path, changed, named):
    run(tmp_path, steps=3)
    kept = last_state(tmp_path).read_bytes()
    with pytest.raises(ConfigError, match=named):
        run(tmp_path, **changed)
    assert last_state(tmp_path).read_bytes() == kept


def test_settings_that_alter_no_result_may_change_when_a_run_goes_on(tmp_path):
    run(tmp_path, steps=3)
    free = {"log_every": 1, "save_every": 2, "keep_last": 1, "micro_batch_size": 4, "checkpoint_activations": True}
    assert run(tmp_path, **free, max_rollbacks=9).steps == 6


def test_other_data_another_model_another_choice_or_another_start_is_named(tmp_path):
    run(tmp_path, steps=3)
    with pytest.raises(ConfigError, match="other data"):
        run(tmp_path, ArraySet("grains", DATA.data_NCYX + 1, DATA.labels_N))
    with pytest.raises(ConfigError, match="model num classes 3, not 4"):
        train(fresh(replace(MODEL, num_classes=4)), DATA, RUN, tmp_path, Silent())
    frozen = fresh()
    frozen.final_layer.requires_grad_(False)
    with pytest.raises(ConfigError, match="other choice of trained parameters"):
        train(frozen, DATA, RUN, tmp_path, Silent())
    with pytest.raises(ConfigError, match="starting checkpoint none, not abc"):
        run(tmp_path, on={"identity": {"starting checkpoint": "abc"}})


def test_a_finished_run_returns_at_once_what_it_has(tmp_path):
    first, told = run(tmp_path, log_every=4), Told()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 6]
    again = run(tmp_path, told=told, log_every=4)
    assert lines_of(tmp_path) == lines
    assert same_average(first, again)
    assert (again.steps, again.loss, again.images_per_sec) == (6, first.loss, None)
    assert told.steps == []
    assert told.notes == [f"6 steps are done, 6 were requested ({last_state(tmp_path)})"]


def test_the_result_tells_what_was_done(tmp_path):
    result = run(tmp_path)
    assert (result.steps, result.rollbacks, result.skipped) == (6, 0, ())
    assert result.seconds > 0
    assert result.images_per_sec > 0
    assert set(result.ema) == {name for name, _ in fresh().named_parameters()}


def test_listeners_hear_everything_and_alter_nothing(tmp_path):
    saved, logged = [], []

    def on_save(step, weights):
        saved.append((step, {name: value.clone() for name, value in weights.items()}))
        for value in weights.values():
            value.zero_()
        torch.manual_seed(step)
        torch.randn(3)

    told = Told()
    heard = run(tmp_path / "a", told=told, on={"on_save": on_save, "on_log": logged.append})
    assert same_average(heard, run(tmp_path / "b"))
    assert same_tensors(last_state(tmp_path / "a"), last_state(tmp_path / "b"))
    assert [step for step, _ in saved] == [3, 6]
    assert all(torch.equal(value, heard.ema[name]) for name, value in saved[-1][1].items())
    assert [{key: value for key, value in line.items() if key != TIMED} for line in logged] == lines_of(tmp_path / "a")
    assert told.steps == [1, 2, 3, 4, 5, 6]
    assert re.fullmatch(r"loss \d\.\d{4}, [\d.e+]+ images/s", told.details[-1]), "those of the line before"


def test_two_runs_do_not_share_a_folder(tmp_path):
    def train_there_too(line):
        # The lock is between processes; a second run in this one would take the first's for its own.
        import subprocess
        import sys

        code = (
            "from pathlib import Path\n"
            "from medcli.errors import ConfigError\n"
            "from tests.unit.training.runs import run\n"
            f"try: run(Path({str(tmp_path)!r}))\n"
            "except ConfigError as err: print(err.message)"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        said.append(found.stdout.strip() or found.stderr)

    said = []
    run(tmp_path, on={"on_log": train_there_too}, log_every=6)
    assert said == [f"another run is training in {tmp_path}"]
    assert not (tmp_path / ".lock").exists()


def test_fp16_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(ConfigError, match="needs a CUDA device") as caught:
        run(tmp_path / "run", dtype="fp16")
    assert "fp32" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_the_mean_loss_of_a_line_is_over_all_its_steps(tmp_path, monkeypatch):
    """Also where the steps are more than the history keeps, and where a resume is between them."""
    monkeypatch.setattr("medcli.training.history.KEPT_ROWS", 4)
    run(tmp_path / "all", steps=12, log_every=1)
    losses = [line["loss"] for line in lines_of(tmp_path / "all")]
    for steps in (7, 12):
        run(tmp_path / "few", steps=steps, log_every=12)
    (line,) = lines_of(tmp_path / "few")
    assert line["loss"] == pytest.approx(sum(losses) / 12, abs=1e-5)


def test_the_learning_rate_and_the_batch_may_change_in_a_new_folder(tmp_path):
    run(tmp_path / "a", steps=6)
    told, started = Told(), []
    state = tmp_path / "a/state-00000006.safetensors"
    settings = {"steps": 9, "lr": 1e-3, "global_batch_size": 4, "resume": str(state)}
    result = run(tmp_path / "b", told=told, on={"on_start": started.append}, **settings)
    assert (result.steps, [line["step"] for line in lines_of(tmp_path / "b")]) == (9, [8, 9])
    changed = {"global_batch_size": [8, 4], "lr": [0.01, 0.001]}
    assert started == [{"checkpoint": str(state), "step": 6, "changed": changed}]
    assert result.resumed_from == started[0]
    assert "lr 0.01, not 0.001: the new values are used" in told.notes[0]
    again = run(tmp_path / "b", steps=9, lr=1e-3, global_batch_size=4)  # goes on in the new folder
    assert again.resumed_from == started[0]
    with pytest.raises(ConfigError, match="lr 0.001, not 0.01"):
        run(tmp_path / "b", steps=9, global_batch_size=4)


def test_weights_average_and_moments_are_kept_when_settings_change(tmp_path):
    run(tmp_path / "a", steps=6)
    state = tmp_path / "a/state-00000006.safetensors"
    run(tmp_path / "b", steps=6, lr=1e-3, resume=str(state))
    assert same_tensors(state, tmp_path / "b/state-00000006.safetensors")


def test_another_network_or_optimizer_is_refused_in_a_new_folder_too(tmp_path):
    run(tmp_path / "a", steps=3)
    resume = str(tmp_path / "a")
    with pytest.raises(ConfigError, match="optimizer adamw, not adan") as caught:
        run(tmp_path / "b", resume=resume, optimizer="adan")
    assert "--resume" in caught.value.hint
    with pytest.raises(ConfigError, match="num classes 3, not 4"):
        train(fresh(replace(MODEL, num_classes=4)), DATA, replace(RUN, resume=resume), tmp_path / "b", Silent())


def test_data_are_compared_by_content_not_by_name(tmp_path):
    straight = run(tmp_path / "a", steps=6)
    run(tmp_path / "b", steps=3)
    moved = run(tmp_path / "b", ArraySet("elsewhere", DATA.data_NCYX, DATA.labels_N), steps=6)
    assert same_average(straight, moved)


def test_other_data_in_a_new_folder_are_noted(tmp_path):
    run(tmp_path / "a", steps=3)
    told = Told()
    other = ArraySet("grains", DATA.data_NCYX + 1, DATA.labels_N)
    run(tmp_path / "b", other, told=told, steps=4, resume=str(tmp_path / "a"))
    assert "other data" in told.notes[0]
    assert told.notes[1] == "the data differ, so the order of images is a new one"


class Broken:
    """The grains, of which some can't be read."""

    def __init__(self, numbers, since=0):
        self.numbers, self.since = set(numbers), since

    def __getattr__(self, name):
        return getattr(DATA, name)

    def read(self, pick_B, position_B, seed):
        bad = [pick for pick in pick_B.tolist() if pick in self.numbers]
        self.since = 0 if int(position_B.max()) >= self.since else self.since
        if bad and not self.since:
            raise DataError(f"grain {bad[0]} is cut short")
        return DATA.read(pick_B, position_B, seed)


def test_an_image_that_turns_bad_is_left_out_and_counted(tmp_path):
    told = Told()
    result = run(tmp_path, Broken([4]), told=told, steps=6)
    assert result.unreadable == {4}
    assert told.notes == ["image 4 is left out: grain 4 is cut short"]
    assert lines_of(tmp_path)[-1]["unreadable_images"] == 1
    assert result.steps == 6
    assert result.skipped == ()
    # a resume without the damage to be seen again remembers it
    assert run(tmp_path, Broken([4]), steps=6).unreadable == {4}


def test_a_bad_image_leaves_the_run_resumable_bit_for_bit(tmp_path):
    straight = run(tmp_path / "a", Broken([4, 7]), steps=8)
    run(tmp_path / "b", Broken([4, 7]), steps=3)
    assert same_average(straight, run(tmp_path / "b", Broken([4, 7]), steps=8))


def test_data_that_go_away_stop_the_run_once_it_is_saved(tmp_path):
    with pytest.raises(DataError, match=r"6 images of grains can't be read, the last: grain \d+ is cut short"):
        run(tmp_path / "b", Broken(range(11), since=40), steps=20, save_every=100)
    assert last_state(tmp_path / "b").name == "state-00000005.safetensors"
    straight = run(tmp_path / "a", steps=20, save_every=100)
    assert same_average(straight, run(tmp_path / "b", steps=20, save_every=100))
