from captionkit.counting import counted


def test_one_thing_has_no_plural() -> None:
    assert counted(1, "row") == "1 row"
    assert counted(0, "row") == "0 rows"
    assert counted(2000, "address", "addresses") == "2,000 addresses"
    assert counted(1, "address", "addresses") == "1 address"
