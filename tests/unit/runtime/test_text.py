import pytest

from medcli.runtime.text import count_text, macs_text, measured, printable, size_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name é.png", "plain name é.png"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_moves_the_cursor_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0 K"), (675_800_000, "676 M"), (999_960, "1.00 M"), (10**9, "1.00 G")],
)
def test_large_counts_are_written_in_three_digits(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("giga", "text"),
    [(118.689, "118.69 G"), (2910.296, "2.91 T"), (0.0307681, "30.77 M"), (999.996, "1.00 T"), (0.0, "0.00")],
)
def test_multiply_adds_are_written_with_the_decimals_of_the_papers(giga: float, text: str) -> None:
    assert macs_text(giga) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (35.7712, 5.6432, "35.77 ± 5.64"),
        (0.00123, 0.00034, "0.00123 ± 0.00034"),
        (1.9105, 1e-16, "1.91 ± 0.00"),
        (376.6865, None, "376.7"),
    ],
)
def test_a_measured_value_has_the_digits_its_error_allows(value: float, error: float | None, text: str) -> None:
    assert measured(value, error) == text
    assert measured(value, error, "+-") == text.replace("±", "+-")


@pytest.mark.parametrize(("size", "text"), [(9.4e8, "940.0 MB"), (19_865_600_000, "19.9 GB"), (800, "0.0 MB")])
def test_sizes_are_in_the_units_of_disks(size: int, text: str) -> None:
    assert size_text(size) == text
