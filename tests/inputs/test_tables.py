"""The reader of tables: what a file is by its content, and no row lost behind a quote."""

from __future__ import annotations

import pytest

from captionkit.inputs.tables import MAX_ROW_LINES, Row, address_column, csv_rows, encoding_of, is_text, kind_of


def rows(text: str, delimiter: str = ",") -> list[Row]:
    return list(csv_rows(text.splitlines(keepends=True), delimiter))


def fields(text: str) -> list[list[str]]:
    return [row.fields for row in rows(text)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("url,n\n", ("csv", ",")),
        ("n; url\r\n", ("csv", ";")),
        ("caption\turl\n", ("csv", "\t")),
        ("url\n", ("csv", ",")),
        ('{"url": "a.jpg"}\n{"url": "b.jpg"}\n', ("jsonl", "")),
        ('{\n  "url": "a.jpg"\n}', ("json", "")),
        ('\n[{"url": "a.jpg"}]', ("json", "")),
        ('["a.jpg"]', ("json", "")),
        ("[2014]/a.jpg\n", ("lines", "")),
        ("a.jpg,b\n", ("lines", "")),
        ("", ("lines", "")),
    ],
)
def test_kinds_are_told_by_their_first_lines(text: str, kind: tuple[str, str]) -> None:
    assert kind_of(text.encode(), lambda names: "url" in names) == kind


def test_a_table_by_name_is_one_without_a_fitting_header() -> None:
    assert kind_of(b"a.jpg\tx\n", lambda names: False, table=True) == ("csv", "\t")


def test_multi_line_values_and_doubled_quotes() -> None:
    text = 'a.jpg,"x ""big"", y\nz"\n\n"b.jpg",x,extra\nc.jpg\n'
    assert fields(text) == [["a.jpg", 'x "big", y\nz'], ["b.jpg", "x", "extra"], ["c.jpg"]]
    assert [row.line for row in rows(text)] == [1, 4, 5]


@pytest.mark.parametrize(
    "rest",
    [
        "b.jpg,b\nc.jpg,c\n",  # up to the end of the file
        'b.jpg,b\nc.jpg,"c, quoted"\n',  # closed by another row's quote
        '"b.jpg","b"\n"c.jpg","c"\n',
        'b.jpg,"b\nc.jpg,"c\n',  # open ones in a row
    ],
)
def test_a_quote_that_is_never_closed_costs_no_row(rest: str) -> None:
    found = rows(f'a.jpg,"open\n{rest}')
    assert [row.fields[0] for row in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [row.line for row in found] == [1, 2, 3]
    assert found[0] == Row(1, ["a.jpg", "open"], open_quote=True)


def test_a_quote_that_is_closed_after_too_many_lines_costs_no_row() -> None:
    many = "".join(f"{number}.jpg,x\n" for number in range(MAX_ROW_LINES + 1))
    assert len(rows(f'a.jpg,"open\n{many}z.jpg,"\n')) == MAX_ROW_LINES + 3


def test_long_values_and_zero_bytes() -> None:
    assert fields(f"a.jpg,{'x' * 200_000}\nb.jpg,y\0z\n") == [["a.jpg", "x" * 200_000], ["b.jpg", "y\ufffdz"]]


def test_columns_of_addresses() -> None:
    assert address_column(["name", "URL", "image"], "uri") == ("URL", ["image"])
    assert address_column(["url", "uri"], "uri") == ("uri", [])
    assert address_column(["url", "place"], "place") == ("place", [])
    assert address_column(["url"], "place") == (None, [])


def test_encodings() -> None:
    assert encoding_of("a.jpg\n".encode("utf-16")) == ("utf-16-le", 2)
    assert encoding_of("a.jpg\n".encode("utf-16-be")) == ("utf-16-be", 0)
    assert encoding_of(b"\xef\xbb\xbfa") == ("utf-8", 3)
    assert encoding_of("ä.jpg".encode()) == ("utf-8", 0)


def test_text_is_told_from_pictures() -> None:
    assert is_text("ä.jpg\r\n".encode())
    assert not is_text(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    assert not is_text(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert not is_text(b"")
