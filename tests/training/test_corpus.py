"""The split and the vocabulary of a training corpus."""

from pathlib import Path

import pytest

from captionkit.errors import UsageError
from captionkit.storage import Storage
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


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_of_few_pictures_in_a_row_few_become_dev_images(tmp_path: Path, first: int) -> None:
    corpus = read(tmp_path, [f"scene-{number:08d}.jpg" for number in range(first, first + 12)])
    assert 1 <= len(corpus.dev) <= 3


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 1 training image and 0 dev images; at least one of each") as error:
        read(tmp_path, ["a.jpg"])
    assert "captions.csv: csv" in str(error.value)


def test_a_threshold_that_leaves_no_word_is_refused(tmp_path: Path) -> None:
    corpus = read(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], "red red bird")
    assert corpus.vocabulary(4).words[4:] == ("red",)
    with pytest.raises(UsageError, match=r"--min-count 5: no word occurs that often .* 'red', occurs 4 times"):
        corpus.vocabulary(5)


def with_lists(folder: Path, train: str | None, dev: str | None, images: tuple[str, ...] = ()) -> TrainingCorpus:
    read(folder, [f"p{number}.jpg" for number in range(40)])
    lists: dict[str, str] = {}
    for name, text in (("train", train), ("dev", dev)):
        if text is not None:
            (folder / f"{name}.txt").write_text(text)
            lists[f"{name}_list"] = str(folder / f"{name}.txt")
    return read_training_corpus(CorpusOptions((str(folder / "captions.csv"),), images, **lists), Storage())


def test_a_list_of_which_no_name_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        with_lists(tmp_path, None, "img_001\nimg_002\n")
    assert str(error.value).startswith(f"{tmp_path}/dev.txt, the list of val: none of its 2 names is in the corpus")
    assert "such as img_001; img_002" in str(error.value)
    assert "The corpus has images such as p0.jpg; p1.jpg; p2.jpg" in str(error.value)
    with pytest.raises(UsageError, match=r"train.txt, the list of train: none of its 1 name is"):
        with_lists(tmp_path, "q.jpg\n", "p1.jpg\n")
    with pytest.raises(UsageError, match=r"the list of val: none of its 0 names is"):
        with_lists(tmp_path, None, "\n")


def test_a_list_that_fits_in_part_says_how_much(tmp_path: Path) -> None:
    corpus = with_lists(tmp_path, None, "p1.jpg\nx.jpg\np2\ny.jpg\n")
    assert [Path(image).name for image, _ in corpus.dev] == ["p1.jpg", "p2.jpg"]
    assert len(corpus.train) == 38
    assert "list of val: 2 of 4 names are not in the corpus: first x.jpg; y.jpg" in corpus.report


def test_a_list_whose_images_are_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for number in range(10):
        (tmp_path / "some" / f"p{number}.jpg").touch()
    with pytest.raises(UsageError, match=r"--dev-list .*dev.txt: no image of this list was found"):
        with_lists(tmp_path, None, "p20.jpg\n", (str(tmp_path / "some"),))


def with_rehearsal(folder: Path, ratio: float, own: int = 20) -> TrainingCorpus:
    others = folder / "others"
    others.mkdir(exist_ok=True)
    read(others, [f"o{number:03d}.jpg" for number in range(100)], "a blue boat")
    read(folder, [f"p{number:03d}.jpg" for number in range(own)])
    options = CorpusOptions(
        corpus=(str(folder / "captions.csv"),), rehearsal=(str(others / "captions.csv"),), rehearsal_ratio=ratio
    )
    return read_training_corpus(options, Storage())


def test_some_of_another_corpus_are_rehearsed_the_same_each_time(tmp_path: Path) -> None:
    corpus = with_rehearsal(tmp_path, 2.0)
    assert len(corpus.rehearsal) == 2 * len(corpus.train)
    assert len(set(corpus.rehearsal)) == len(corpus.rehearsal)
    assert all(texts == ("a blue boat",) for _, texts in corpus.rehearsal)
    assert corpus.learnt == corpus.train + corpus.rehearsal
    assert with_rehearsal(tmp_path, 2.0).rehearsal == corpus.rehearsal
    assert len(with_rehearsal(tmp_path, 50.0).rehearsal) == 100
    # They choose no checkpoint and bring no words.
    assert "boat" not in corpus.vocabulary(5).words
    assert not any("/others/" in image for image, _ in corpus.dev)
    assert f"rehearsal: {2 * len(corpus.train)} of 100 images of\n{tmp_path}/others/captions.csv" in corpus.report


def test_an_image_of_ones_own_is_not_rehearsed(tmp_path: Path) -> None:
    read(tmp_path, [f"p{number:03d}.jpg" for number in range(20)])
    address = (str(tmp_path / "captions.csv"),)
    with pytest.raises(UsageError, match="--rehearsal: no training image that is not in the corpus itself"):
        read_training_corpus(CorpusOptions(corpus=address, rehearsal=address), Storage())
