"""`read_corpus`: any known corpus, recognised by itself, as a stream of records with a report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from captionkit.corpus.coco import read_coco, read_karpathy
from captionkit.corpus.corpus_file import Columns, Reader, Source
from captionkit.corpus.detect import recognise
from captionkit.corpus.flickr import LISTS, read_list, read_tokens
from captionkit.corpus.images import list_images
from captionkit.corpus.record import CorpusError, Record, Report, split_name
from captionkit.corpus.spool import Gathered, Spool, spool
from captionkit.corpus.tabular import read_csv, read_json, read_jsonl, read_parquet
from captionkit.storage import SHARD_SUFFIXES, Storage, UsageError, is_pattern, redact, split_member

READERS: dict[str, Reader] = {
    "flickr": read_tokens,
    "csv": read_csv,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
"""What `format` may name."""

_DECLARE_ONCE = ("coco", "karpathy")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*://")
_COCO_FILE = re.compile(r"(.*)/annotations/captions_([^/]+?)\.json(?:\.gz|\.zip)?")


@dataclass
class Corpus:
    """A corpus to iterate over, as often as one likes; each time it is read anew. See `read_corpus`."""

    sources: tuple[str, ...]
    images: tuple[str, ...] | None
    format: str
    columns: Columns
    splits: Mapping[str, str] | None
    check: bool
    storage: Storage
    report: Report = field(default_factory=Report)
    """Of the latest reading; complete when that has come to its end."""

    def __iter__(self) -> Iterator[Record]:
        report = self.report = Report()
        with spool(report) as gathering:
            self._gather(gathering, report)
            if self.images is not None and self.check:
                report.checked = True
                gathering.list_images(list_images(self.storage, self.images))
            for image in gathering.images():
                address = self._address(image, gathering, report)
                if address is not None:
                    record = Record(address, image.captions, image.split, image.key)
                    report.add(record)
                    yield record
        if not report.records:
            raise CorpusError(f"not one record came of it:\n{report}")

    def _gather(self, gathering: Spool, report: Report) -> None:
        lists = dict(self.splits or {})
        for uri in self._files():
            source = Source(self.storage, uri, report, self.columns)
            kind = recognise(source) if self.format == "auto" else self.format
            report.sources.append(f"{redact(uri)}: {kind}")
            beside = _images_beside(uri, kind) if self.images is None else None
            for item in READERS[kind](source):
                if beside is not None and item.name is not None:
                    item = item._replace(name=_joined(self.storage, beside, item.name))
                gathering.add(item, kind in _DECLARE_ONCE)
            if self.splits is None and kind in ("flickr", "csv"):
                official = {split: self.storage.join(_folder(uri), name) for split, name in LISTS.items()}
                lists |= {split: address for split, address in official.items() if self.storage.exists(address)}
        for split, address in lists.items():
            report.sources.append(f"{redact(address)}: list of {split}")
            gathering.list_split(split_name(split) or split, read_list(Source(self.storage, address, report)))

    def _files(self) -> Iterator[str]:
        for address in self.sources:
            if is_pattern(address) and not self.storage.exists(address):
                found = sorted(entry.uri for entry in self.storage.glob(address))
                if not found:
                    raise CorpusError(f"{redact(address)}: no file fits this pattern")
                yield from found
            else:
                yield self.storage.normalize(address)

    def _address(self, image: Gathered, gathering: Spool, report: Report) -> str | None:
        """Where the image is; None (and its captions counted) where it is not, or is anywhere."""
        if self.images is None or _stands_alone(image.name):
            return self.storage.normalize(image.name)
        if not self.check:
            return _joined(self.storage, self.images[0], image.name)
        found = gathering.find(image.name)
        if len(found) == 1:
            return found[0]
        if found:
            report.leave_out("image_ambiguous", f"{image.name}: {found[0]}, {found[1]}", len(image.captions))
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
    """A captioned corpus as a stream of `Record`, in the order in which its files first name the images.

        corpus = read_corpus("coco/annotations/captions_*2017.json", images=["coco/train2017", "coco/val2017"])
        train = [record for record in corpus if record.split == "train"]
        print(corpus.report)

    Nothing is read until one iterates. Files are then read once (COCO's twice) into a temporary database on the
    local disk, and records come out of that: memory stays the same however large the corpus (some 20 MB). What is
    odd in a file is counted in the report, with examples; no caption is dropped without being counted.

    Args:
        source: address or pattern of the captions' file, or several of them, read as one corpus. Packed (.gz, or a
            .zip with one file in it) or not.
        images: where the images are: a folder, prefix, tar shard or pattern, or several. They are listed once, and
            names are looked up: as the same path, else as the end of one, else by file name; captions whose image is
            not there are left out and counted. By itself: relative names lie beside the captions' file (COCO's in
            `../train2017` of `annotations/captions_train2017.json`), and nobody looks whether they are there. Names
            that are full addresses (`s3://…`) stay as they are.
        format: a key of `READERS`; "auto" recognises it by the file's first bytes.
        columns: of tables, where they have unusual names.
        splits: lists of images by split, `{"train": ADDRESS, …}`, one name a line. By itself the official lists of
            Flickr8k (`Flickr_8k.trainImages.txt`, `dev`, `test`) that lie beside the file. They overrule a split in
            the file; an image in no list keeps what it had.
        check: False joins `images` (one folder) and name without listing.
        storage: where its options are others than the environment's.

    Raises (now):
        UsageError: options that cannot work.
    Raises (when iterated over):
        CorpusError: a file of no known format, broken as a whole (half of a JSON file), or no record at all.
        StorageError: storage that cannot be read.
    """
    if format != "auto" and format not in READERS:
        raise UsageError(f"format {format!r} is not known; there are auto, {', '.join(READERS)}")
    sources = (source,) if isinstance(source, str) else tuple(source)
    places = None if images is None else (images,) if isinstance(images, str) else tuple(images)
    if not sources:
        raise UsageError("source names no file")
    if places is not None and not places:
        raise UsageError("images names no place; leave it out if they lie beside the captions")
    if places is not None and not check and (len(places) > 1 or places[0].lower().endswith(SHARD_SUFFIXES)):
        raise UsageError("check=False takes one folder for images; several, and shards, have to be listed")
    return Corpus(sources, places, format, columns or Columns(), splits, check, storage or Storage())


def _images_beside(uri: str, kind: str) -> str:
    """The folder in which relative names lie by themselves."""
    layout = _COCO_FILE.fullmatch(uri) if kind == "coco" else None
    return f"{layout[1]}/{layout[2]}" if layout else _folder(uri)


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0] or "/"


def _joined(storage: Storage, folder: str, name: str) -> str:
    if _stands_alone(name) or name.startswith("/"):
        return name
    return storage.normalize(storage.join(folder, name))


def _stands_alone(name: str) -> bool:
    return _SCHEME.match(name) is not None or split_member(name)[1] is not None
