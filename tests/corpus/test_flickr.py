import pytest

from captionkit.corpus.flickr import CorpusError, read_split, read_tokens


def test_captions_by_image() -> None:
    lines = ["a.jpg#0\tA dog .\r\n", "a.jpg#1\tOne dog\n", "\n", "b#c.jpg#0\tA cat\t.\n"]
    assert read_tokens(lines) == {"a.jpg": ["A dog .", "One dog"], "b#c.jpg": ["A cat\t."]}


@pytest.mark.parametrize("line", ["a.jpg A dog", "a.jpg\tA dog"])
def test_another_form_is_named_by_its_line(line: str) -> None:
    with pytest.raises(CorpusError, match="line 2: expected"):
        read_tokens(["a.jpg#0\tA dog", line])


def test_split() -> None:
    assert read_split(["a.jpg\r\n", "", "b.jpg"]) == ["a.jpg", "b.jpg"]
