from __future__ import annotations

import pytest

from medcli.errors import ConfigError
from medcli.scores.digits_extractor import DigitsExtractor
from medcli.scores.extractor import DIGITS
from medcli.scores.registry import load_extractor


def test_an_extractor_is_found_by_name() -> None:
    assert isinstance(load_extractor(DIGITS), DigitsExtractor)


def test_an_unknown_extractor_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="dino") as caught:
        load_extractor("dino")
    assert caught.value.hint == "choose one of inception, digits"
