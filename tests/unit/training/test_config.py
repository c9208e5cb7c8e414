import json
import math

import pytest

from medcli.errors import ConfigError
from medcli.training.config import TrainConfig
from medcli.training.objective import LossConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1"),
        ({"global_batch_size": 0}, "--global-batch-size"),
        ({"micro_batch_size": 0}, "--micro-batch-size"),
        ({"save_every": 0}, "--save-every"),
        ({"log_every": 0}, "--log-every"),
        ({"keep_last": 0}, "--keep-last"),
        ({"max_rollbacks": -1}, "max_rollbacks"),
        ({"lr": math.nan}, "--lr"),
        ({"lr": math.inf}, "--lr"),
        ({"ema": 1.0}, "--ema"),
        ({"grad_clip": 0.0}, "--grad-clip must be"),
        ({"grad_clip": math.nan}, "--grad-clip must be"),
        ({"label_dropout": 1.0}, "--label-dropout"),
        ({"spike_factor": 1.0}, "spike"),
        ({"dtype": "fp8"}, "--dtype 'fp8'"),
        ({"ladder_rule": "all"}, "--ladder-rule"),
        ({"counts": ()}, "no mediator count"),
        ({"counts": (0, 1, 4), "global_batch_size": 2, "ladder_rule": "split"}, "cannot give each"),
    ],
)
def test_what_is_out_of_range_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{"steps": 1, **settings})


def test_a_batch_smaller_than_the_ladder_is_fine_where_a_step_trains_one_count():
    TrainConfig(steps=1, counts=(0, 1, 4), global_batch_size=1)


def test_what_a_resumed_run_must_share_is_flat_json():
    fixed = TrainConfig(steps=3, counts=(0, 4), loss=LossConfig(prediction="noise")).fixed()
    assert json.loads(json.dumps(fixed)) == fixed
    assert (fixed["prediction"], fixed["entries"]) == ("noise", [0, 4])
    assert not {"steps", "resume", "save_every", "micro_batch_size", "loss"} & set(fixed)
