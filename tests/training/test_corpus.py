"""The split and the vocabulary of a training corpus."""

from pathlib import Path

import pytest

from captionkit.storage import Storage, UsageError
from captionkit.training.corpus import TrainingCorpus, read_training_corpus
from captionkit.training.options import CorpusOptions


def read(folder: Path, names: list[str], caption: str = "a red bird") -> TrainingCorpus:
    (folder / "captions.csv").write_text("image,caption\n" + "".join(f"{name},{caption}\n" for name in names))
    for name in names:
        (folder / name).touch()
    return read_training_corpus(CorpusOptions(corpus=(str(folder / "captions.csv"),)), Storage())


@pytest.mark.parametrize("count", [2, 3, 36, 400])
@pytest.mark.parametrize("ending", [".jpg", ""])
def test_some_images_of_a_corpus_without_splits_become_dev_images(tmp_path: Path, count: int, ending: str) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    parts = []
    for folder in folders:
        folder.mkdir()
        corpus = read(folder, [f"p{number:03d}{ending}" for number in range(count)])
        train, dev = ({Path(image).name for image, _ in part} for part in (corpus.train, corpus.dev))
        assert not train & dev
        assert len(train | dev) == count
        assert 1 <= len(dev) <= max(1, count // 10)
        parts.append(dev)
    assert parts[0] == parts[1]  # wherever the corpus lies


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 1 training image and 0 dev images; at least one of each") as error:
        read(tmp_path, ["a.jpg"])
    assert "captions.csv: csv" in str(error.value)


def test_a_threshold_that_leaves_no_word_is_refused(tmp_path: Path) -> None:
    corpus = read(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], "red red bird")
    assert corpus.vocabulary(4).words[4:] == ("red",)
    with pytest.raises(UsageError, match=r"--min-count 5: no word occurs that often .* 'red', occurs 4 times"):
        corpus.vocabulary(5)
