"""Data sets in the layouts in which they are downloaded: zip files as they are, unpacked folders, Kaggle's copies.

Zip files of photos stay as they are: corpus and features read them as shards. Files of captions within a zip are copied
to the training's output folder, the only thing that is unpacked. Imports no torch.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from captionkit.corpus.flickr import LISTS
from captionkit.errors import UsageError
from captionkit.inputs.kinds import IMAGE_SUFFIXES, suffix_of
from captionkit.storage import SHARD_SUFFIXES, Storage, public_uri
from captionkit.storage.archives import ARCHIVE_ERRORS, listing

MAX_TEXT: Final = 2**30
"""Bytes that a file of captions within a zip may have; COCO's largest has 92 million."""
UNPACKED: Final = "data"
"""Folder, within the output folder, of captions that came in a zip file."""


@dataclass(frozen=True)
class _Captions:
    """One way in which a data set's captions come."""

    files: tuple[str, ...]
    """Names of the files that hold them, all needed."""
    beside: tuple[str, ...] = ()
    """Names of files that are wanted beside them: lists of splits."""
    photos: tuple[str, ...] = ()
    """Folders of the photos, by name, or zip files of that name. None: every folder with photos, else every shard."""
    test: str = ""
    """File that says which images are for tests, one of `files` or `beside`."""


_LISTS = tuple(LISTS.values())
DATA_SETS: Final[Mapping[str, tuple[_Captions, ...]]] = {
    "flickr8k": (
        _Captions(("Flickr8k.token.txt",), _LISTS, test=LISTS["test"]),
        _Captions(("captions.txt",), _LISTS, test=LISTS["test"]),  # Kaggle's, which has no lists
    ),
    "coco": (
        _Captions(("dataset_coco.json",), photos=("train2014", "val2014"), test="dataset_coco.json"),
        _Captions(("captions_train2017.json", "captions_val2017.json"), photos=("train2017", "val2017")),
        _Captions(("captions_train2014.json", "captions_val2014.json"), photos=("train2014", "val2014")),
    ),
}
"""The data sets that are known, each with the ways in which its captions come; the first that is there is taken."""


@dataclass(frozen=True)
class DataSet:
    """A data set that was found."""

    corpus: tuple[str, ...]
    """Addresses of the captions, as `CorpusOptions.corpus` takes them."""
    images: tuple[str, ...]
    """Where the photos are, as `CorpusOptions.images` takes them."""
    has_test: bool
    """Whether the captions come with a test split."""

    def __str__(self) -> str:
        shown = [public_uri(uri) for uri in self.images]
        more = f" and {len(shown) - 3:,} more" if len(shown) > 3 else ""
        return f"captions: {', '.join(map(public_uri, self.corpus))}; photos: {', '.join(shown[:3])}{more}"


class _Text(NamedTuple):
    """A file of captions or names: of its own, or a member of a zip."""

    uri: str
    member: str = ""


@dataclass
class _Folder:
    """What is in a data set's folder."""

    texts: dict[str, _Text] = field(default_factory=dict)
    """The wanted files by name; of several the one that needs no unpacking, else the first by address."""
    photos: set[str] = field(default_factory=set)
    """Folders that hold photos themselves, not in folders of theirs."""
    shards: list[str] = field(default_factory=list)
    """Tars, and those zip files that hold photos."""


def find_data_set(name: str, folder: str, output: str, storage: Storage) -> DataSet:
    """Find captions and photos below a folder.

    Args:
        name: a key of `DATA_SETS`.
        output: the training's output folder, to which captions in a zip file are copied.

    Raises:
        UsageError: they are not there, or a zip file is broken.
        StorageError: the folder does not exist or cannot be read, or the output folder cannot be written.
    """
    ways = DATA_SETS[name]
    contents = _look(folder, {text for way in ways for text in (*way.files, *way.beside)}, storage)
    way = next((way for way in ways if set(way.files) <= contents.texts.keys()), None)
    if way is None:
        wanted = "; or ".join(" and ".join(way.files) for way in ways)
        raise UsageError(
            f"--data {public_uri(folder)} holds no captions of {name}: neither it, nor a folder or zip file in it, "
            f"has {wanted}"
        )
    images = _photos(contents, way)
    if not images:
        wanted = f" called {' and '.join(way.photos)}" if way.photos else ""
        raise UsageError(
            f"--data {public_uri(folder)} holds captions of {name} and no photos: no folder, zip or tar{wanted} with "
            "photos in it was found"
        )
    texts = {text: contents.texts[text] for text in (*way.files, *way.beside) if text in contents.texts}
    if any(text.member for text in texts.values()):
        # All of them: the lists of splits are looked for beside the captions.
        places = {text: storage.join(output, UNPACKED, text) for text in texts}
        for text, place in places.items():
            _copy(texts[text], place, storage)
    else:
        places = {text: one.uri for text, one in texts.items()}
    return DataSet(tuple(places[text] for text in way.files), images, way.test in places)


def _look(folder: str, wanted: set[str], storage: Storage) -> _Folder:
    contents = _Folder()
    for uri in sorted(entry.uri for entry in storage.list(folder)):
        if "/__MACOSX/" in uri:
            continue
        base, suffix = posixpath.basename(uri), suffix_of(uri)
        if base in wanted and (base not in contents.texts or contents.texts[base].member):
            contents.texts[base] = _Text(uri)
        elif suffix in IMAGE_SUFFIXES:
            contents.photos.add(posixpath.dirname(uri))
        elif suffix == ".zip":
            has_photos = False
            for member, base in _zip_names(uri, storage):
                has_photos |= suffix_of(base) in IMAGE_SUFFIXES
                if base in wanted:
                    contents.texts.setdefault(base, _Text(uri, member))
            if has_photos:
                contents.shards.append(uri)
        elif suffix in SHARD_SUFFIXES:
            contents.shards.append(uri)
    return contents


def _zip_names(uri: str, storage: Storage) -> Iterator[tuple[str, str]]:
    """Pairs of a member's name and the last part of it, without what macOS's packer adds."""
    try:
        with storage.open(uri) as stream:
            for member in listing(stream):
                base = posixpath.basename(member.name)
                if "__MACOSX" not in member.name and not base.startswith("."):
                    yield member.name, base
    except (*ARCHIVE_ERRORS, ValueError, ArithmeticError, LookupError) as err:
        raise UsageError(f"{public_uri(uri)}: the zip file is broken ({err}); download it again") from err


def _photos(contents: _Folder, way: _Captions) -> tuple[str, ...]:
    places: Sequence[str] = [*sorted(contents.photos)] or contents.shards
    if not way.photos:
        return tuple(places)
    chosen = []
    for name in way.photos:  # each where it is: one may be unpacked and the other not
        folders = [place for place in sorted(contents.photos) if posixpath.basename(place) == name]
        zips = [place for place in contents.shards if posixpath.basename(place).partition(".")[0] == name]
        chosen += folders[:1] or zips
    return tuple(chosen)


def _copy(text: _Text, place: str, storage: Storage) -> None:
    if storage.exists(place):  # of a run before
        return
    if not text.member:
        storage.write(place, storage.read(text.uri))
        return
    try:
        with storage.open(text.uri) as stream:
            for member in listing(stream):
                if member.name != text.member:
                    continue
                if member.size > MAX_TEXT:
                    raise UsageError(
                        f"{public_uri(text.uri)}: {text.member} claims {member.size:,} bytes, more than captions have"
                    )
                with storage.create(place) as copy, member.open() as source:
                    shutil.copyfileobj(source, copy)
                return
    except (*ARCHIVE_ERRORS, ValueError, ArithmeticError, LookupError) as err:
        if isinstance(err, UsageError):
            raise
        raise UsageError(f"{public_uri(text.uri)}: the zip file is broken ({err}); download it again") from err
