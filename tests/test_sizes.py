import pytest

from jaxstore.sizes import parse_size, size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [(7, 7), ("7", 7), ("1kB", 1000), ("1 KiB", 1024), ("2GB", 2 * 10**9), ("0.5MiB", 2**19)],
)
def test_sizes_are_read(text, n_bytes):
    assert parse_size(text, what="memory") == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", 0, -5, True, 1.5, "1.2.3MB", "1 EB", None])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="memory is .*Give bytes above 0"):
        parse_size(text, what="memory")


def test_sizes_are_written():
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]
