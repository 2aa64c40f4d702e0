import pytest

from autotune.units import UnitError, format_bytes, format_ms, parse_bytes, parse_lengths, parse_seconds


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("1000", (1000,)),
        ("4k", (4096,)),
        ("1.5k", (1536,)),
        (" 1M , 2 K", (1 << 20, 2048)),
        ("4k:64k", (4096, 8192, 16384, 32768, 65536)),
        ("1000:3000", (1000, 2000)),
        ("4k:4k,4096,1", (4096, 1)),
        ("64k:1m", (65536, 131072, 262144, 524288, 1 << 20)),
    ],
)
def test_lengths(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "4g", "k", "1.0001", "four", "4k:", ":4k", "8k:4k", "4k,,8k", "4k;8k", "nan", "1e3", "4k:8k:16k"],
)
def test_bad_lengths_are_refused_with_value_and_remedy(text):
    with pytest.raises(UnitError, match=r"^lengths? (is|has the range) '.*', but (it )?must .*4k") as caught:
        parse_lengths(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("300", 300),
        ("300B", 300),
        ("8GiB", 8 << 30),
        ("8g", 8 << 30),
        ("8 GB", 8 * 10**9),
        ("1.5MiB", 3 << 19),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8 bits", "GiB", "-1", "1e9", "inf", "8GiB8"])
def test_bad_sizes_are_refused_with_value_and_remedy(text):
    with pytest.raises(UnitError, match=r"^memory limit is '.*', but must be a number and a unit, such as 8GiB$"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("1.5s", 1.5), ("10m", 600.0), ("2H", 7200.0)])
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10 minutes", "-1m", "1d", "1:30"])
def test_bad_durations_are_refused_with_value_and_remedy(text):
    with pytest.raises(UnitError, match=r"^budget is '.*', but must be a number and a unit, such as 10m$"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (5 << 20, "5.00 MiB"), (3 << 40, "3072.00 GiB")],
)
def test_sizes_are_written_for_people(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(("ms", "text"), [(0.5, "0.5 ms"), (9999.0, "10 s"), (10000.0, "10 s"), (123.456, "123 ms")])
def test_milliseconds_are_written_for_people(ms, text):
    assert format_ms(ms) == text
