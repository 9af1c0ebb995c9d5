"""`read_corpus`: a corpus of any known format, as a stream of images with captions, and a report."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from captionkit.corpus.coco import read_coco, read_karpathy
from captionkit.corpus.corpus_file import Columns, CorpusFile, Reader
from captionkit.corpus.detect import detect_format
from captionkit.corpus.flickr import LISTS, read_list, read_tokens
from captionkit.corpus.images import list_images
from captionkit.corpus.record import EXAMPLES, CaptionedImage, CorpusError, Fit, Report, split_name
from captionkit.corpus.spool import JoinedImage, Spool, open_spool
from captionkit.corpus.tabular import read_csv, read_json, read_jsonl, read_parquet
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.storage import SHARD_SUFFIXES, Storage, is_pattern, redact, split_member

READERS: dict[str, Reader] = {
    "flickr": read_tokens,
    "csv": read_csv,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
"""The formats, and the function that reads each."""

_DECLARE_ONCE = ("coco", "karpathy")
"""Formats that declare each image once, so that a second declaration is noted."""
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*://")
_COCO_FILE = re.compile(r"(.*)/annotations/captions_([^/]+?)\.json(?:\.gz|\.zip)?")


@dataclass
class Corpus:
    """A corpus to iterate over; each iteration reads it again. See `read_corpus`."""

    sources: tuple[str, ...]
    images: tuple[str, ...] | None
    format: str
    columns: Columns
    splits: Mapping[str, str] | None
    check: bool
    storage: Storage
    report: Report = field(default_factory=Report)
    """Report of the latest iteration; complete at its end."""

    def __iter__(self) -> Iterator[CaptionedImage]:
        report = self.report = Report()
        with open_spool(report) as spool:
            self._fill(spool, report)
            if self.images is not None and self.check:
                report.checked = True
                spool.list_images(list_images(self.storage, self.images))
            first_names: list[str] = []
            for joined in spool.images():
                if len(first_names) < EXAMPLES:
                    first_names.append(posixpath.basename(joined.name))
                address = self._address(joined, spool, report)
                if address is not None:
                    image = CaptionedImage(address, joined.captions, joined.split, joined.key)
                    report.add(image)
                    yield image
        self._check_lists(report, first_names)
        if not report.records:
            raise CorpusError(f"the corpus has no image with a caption:\n{report}")

    def _check_lists(self, report: Report, first_names: Sequence[str]) -> None:
        """Raise UsageError for a list in `splits` of which no name is in the corpus.

        Args:
            first_names: file names of the corpus' first images, as examples.
        """
        for split, uri in (self.splits or {}).items():
            fit = report.lists.get(split_name(split) or split, Fit(0, 0, ()))
            if fit.unknown == fit.names:
                examples = f"such as {'; '.join(fit.examples)}" if fit.examples else "that are in no other list"
                raise UsageError(
                    f"{redact(uri)}, the list of {split}: none of its {counted(fit.names, 'name')} is in the corpus, "
                    f"{examples}. The corpus has images such as {'; '.join(first_names)}: list their file names, one "
                    "per line"
                )

    def _fill(self, spool: Spool, report: Report) -> None:
        """Put all captions and split lists into the spool."""
        lists = dict(self.splits or {})
        for uri in self._files():
            file = CorpusFile(self.storage, uri, report, self.columns)
            kind = detect_format(file) if self.format == "auto" else self.format
            report.sources.append(f"{redact(uri)}: {kind}")
            folder = _default_folder(uri, kind) if self.images is None else None
            for fragment in READERS[kind](file):
                if folder is not None and fragment.name is not None:
                    fragment = fragment._replace(name=_in_folder(self.storage, folder, fragment.name))
                spool.add(fragment, kind in _DECLARE_ONCE)
            if self.splits is None and kind in ("flickr", "csv"):
                official = {split: self.storage.join(_folder(uri), name) for split, name in LISTS.items()}
                lists |= {split: address for split, address in official.items() if self.storage.exists(address)}
        for split, address in lists.items():
            report.sources.append(f"{redact(address)}: list of {split}")
            spool.list_split(split_name(split) or split, read_list(CorpusFile(self.storage, address, report)))

    def _files(self) -> Iterator[str]:
        for address in (uri for source in self.sources for uri in self.storage.expand(source)):
            if is_pattern(address) and not self.storage.exists(address):
                matches = sorted(entry.uri for entry in self.storage.glob(address))
                if not matches:
                    raise CorpusError(f"{redact(address)}: this pattern matches no file")
                yield from matches
            else:
                yield self.storage.normalize(address)

    def _address(self, image: JoinedImage, spool: Spool, report: Report) -> str | None:
        """The image's address; None, and its captions counted as left out, if it is not found or ambiguous."""
        if self.images is None or _is_full_address(image.name):
            return self.storage.normalize(image.name)
        if not self.check:
            return _in_folder(self.storage, self.images[0], image.name)
        matches = spool.find(image.name)
        if len(matches) == 1:
            return matches[0]
        if matches:
            report.leave_out("image_ambiguous", f"{image.name}: {matches[0]}, {matches[1]}", len(image.captions))
        else:
            report.leave_out("image_missing", image.name, len(image.captions))
        return None


def read_corpus(
    source: str | Iterable[str],
    images: str | Iterable[str] | None = None,
    *,
    format: str = "auto",
    columns: Columns | None = None,
    splits: Mapping[str, str] | None = None,
    check: bool = True,
    storage: Storage | None = None,
) -> Corpus:
    """A captioned corpus as a stream of `CaptionedImage`, in the order in which its files first name the images.

        corpus = read_corpus("coco/annotations/captions_*2017.json", images=["coco/train2017", "coco/val2017"])
        train = [image for image in corpus if image.split == "train"]
        print(corpus.report)

    Reading starts with the iteration. Each file is read once (COCO's twice) into a temporary database on the local
    disk, from which the images are yielded. So memory is constant, some 20 MB, for a corpus of any size. Irregularities
    are counted in the report, with examples; every caption that is left out is counted.

    Args:
        source: address, pattern or brace range of the file with the captions, or several, read as one corpus. They
            may be compressed (.gz, or a .zip with one file in it).
        images: where the images are: a folder, prefix, tar shard or pattern, or several. They are listed once, and
            names are looked up: as the same path, else as the end of a path, else by file name. Captions whose image
            is not found are left out and counted. Default: relative names are in the folder of the captions' file
            (COCO's in `../train2017` of `annotations/captions_train2017.json`), and are not looked up. Names that are
            full addresses (`s3://…`) stay as they are.
        format: a key of `READERS`; "auto" detects it from the file's first bytes.
        columns: of tables, if their names are unusual.
        splits: addresses of lists of images, by split: `{"train": ADDRESS, …}`, one name per line. Default: the
            official lists of Flickr8k (`Flickr_8k.trainImages.txt`, `dev`, `test`), if they are in the file's folder.
            They override a split in the file; an image in no list keeps its split.
        check: False joins `images`, which must be one folder, and name, without listing.
        storage: default: with options from the environment.

    Raises:
        UsageError: options that exclude each other or name nothing; (on iteration) a list in `splits` of which no name
            is in the corpus.
        CorpusError: (on iteration) a file of unknown format or broken as a whole (half of a JSON file), or a corpus
            without an image.
        StorageError: (on iteration) storage that cannot be read.
    """
    if format != "auto" and format not in READERS:
        raise UsageError(f"unknown format {format!r}; choose from auto, {', '.join(READERS)}")
    sources = (source,) if isinstance(source, str) else tuple(source)
    places = None if images is None else (images,) if isinstance(images, str) else tuple(images)
    if not sources:
        raise UsageError("source names no file")
    if places is not None and not places:
        raise UsageError("images names no place; leave it out if they are beside the captions")
    if places is not None and not check and (len(places) > 1 or places[0].lower().endswith(SHARD_SUFFIXES)):
        raise UsageError("check=False takes one folder for images; several folders, and shards, have to be listed")
    return Corpus(sources, places, format, columns or Columns(), splits, check, storage or Storage())


def _default_folder(uri: str, kind: str) -> str:
    """The folder of relative names, if no place of the images is given."""
    layout = _COCO_FILE.fullmatch(uri) if kind == "coco" else None
    return f"{layout[1]}/{layout[2]}" if layout else _folder(uri)


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0] or "/"


def _in_folder(storage: Storage, folder: str, name: str) -> str:
    if _is_full_address(name) or name.startswith("/"):
        return name
    return storage.normalize(storage.join(folder, name))


def _is_full_address(name: str) -> bool:
    return _SCHEME.match(name) is not None or split_member(name)[1] is not None
