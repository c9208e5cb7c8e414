import pytest

from medcli.errors import require_complete


def test_a_table_that_lacks_a_choice_or_has_another_fails_with_its_name():
    require_complete("solver", {"euler": 1, "heun": 2}, ("heun", "euler"))
    with pytest.raises(TypeError, match="solver 'heun' is declared but not implemented"):
        require_complete("solver", {"euler": 1}, ("heun", "euler"))
    with pytest.raises(TypeError, match="solver 'heun' is implemented but not declared"):
        require_complete("solver", {"euler": 1, "heun": 2}, ("euler",))
