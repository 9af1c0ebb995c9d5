"""The command that shows captions of several searches beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import TYPE_CHECKING, Literal

import tyro

from captionkit.cli.exit_codes import OK
from captionkit.cli.options import parse
from captionkit.corpus.options import CorpusFormat
from captionkit.errors import UsageError
from captionkit.model.search.options import SearchOptions
from captionkit.pipeline.options import WordOptions
from captionkit.storage.options import StorageOptions

if TYPE_CHECKING:
    from captionkit.storage import Storage


@dataclass(frozen=True)
class ShowOptions:
    """Print and draw images with the captions of greedy search and of beams of several widths."""

    image: tyro.conf.Positional[tuple[str, ...]] = ()
    """Addresses of images, folders of them, or patterns. Without any, the first of the corpus's split."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Address of a captioner bundle. Several, of one vocabulary, decode together: --model A --model B. Default: the
    embedded one, which knows drawn scenes and no photographs."""
    beams: tuple[int, ...] = (1, 3, 5, 7, 10)
    """Beam widths to compare; 1 is greedy search. They replace --beam and --n-best."""
    output: str | None = None
    """Also write a page (….html) or a picture (….png) to this address."""
    limit: int = 24
    """The most images that are shown, the first in the order of their names."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 on devices with fast bfloat16, else float32."""
    corpus: tuple[str, ...] = ()
    """Addresses of people's captions (as for `captionkit evaluate`), to be shown with BLEU beside the captioner's. Its
    images are told by their addresses, else by their file names."""
    images: tuple[str, ...] = ()
    """Where the corpus's images are. Default: beside the captions."""
    split: str = "all"
    """Split of the corpus from which images are taken where none is named."""
    split_list: str | None = None
    """A list of that split's images, one per line."""
    format: CorpusFormat = "auto"
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    words: tyro.conf.OmitArgPrefixes[WordOptions] = field(default_factory=WordOptions)
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)


def show(args: Sequence[str]) -> int:
    """`captionkit show`; the exit code."""
    options = parse(ShowOptions, "show", args)
    from captionkit.drawing.comparison import check_address
    from captionkit.model.bundle_files import check_bundles
    from captionkit.progress import log_line
    from captionkit.storage import Storage, public_uri

    storage = Storage(options.storage)
    if options.limit < 1:
        raise UsageError(f"--limit is at least 1, not {options.limit}")
    if not options.image and not options.corpus:
        raise UsageError("nothing to show: name images, or a corpus with --corpus")
    if options.output:
        check_address(options.output)
    check_bundles(options.model, storage)
    corpus = _references(options, storage) if options.corpus else {}
    if options.image:
        named = _images(options, storage)
    else:
        named = {image: public_uri(image) for image in list(corpus)[: options.limit]}
    images = list(named)
    from captionkit.model.captioner import Captioner

    comparison = Captioner.load(options.model, dtype=options.dtype, storage=storage).show(
        images,
        options.search,
        beams=options.beams,
        references=_matching(images, corpus) if corpus else (),
        names=list(named.values()),
        banned=options.words.banned,
        prefix=options.words.prefix,
        storage=storage,
    )
    print(comparison)
    if options.output:
        comparison.save(options.output, storage)
        log_line(f"written: {public_uri(options.output)}")
    return OK


def _references(options: ShowOptions, storage: Storage) -> Mapping[str, Sequence[str]]:
    """People's captions by the image's address."""
    from captionkit.evaluation.options import JudgedCorpusOptions
    from captionkit.evaluation.references import read_references
    from captionkit.inputs.named import require

    for option, addresses in (("--corpus", options.corpus), ("--images", options.images)):
        require(option, addresses, storage)
    # Images that are named are of any split.
    split, split_list = ("all", None) if options.image else (options.split, options.split_list)
    corpus = JudgedCorpusOptions(
        corpus=options.corpus, images=options.images, split=split, split_list=split_list, format=options.format
    )
    return read_references(corpus, storage).references


def _images(options: ShowOptions, storage: Storage) -> dict[str, str]:
    """The images that were named, each by its address and as it is to be called; of folders and patterns the first
    `--limit` in the order of their names.

    Raises:
        UsageError: nothing is there; StorageError: storage that cannot be read.
    """
    from captionkit.inputs.kinds import IMAGE_SUFFIXES, suffix_of
    from captionkit.storage import is_pattern, public_uri

    images: dict[str, str] = {}
    for address in options.image:
        for typed in storage.expand(address):
            uri = storage.normalize(typed)
            if storage.exists(uri):
                images.setdefault(uri, public_uri(typed))
                continue
            inside = storage.list(uri) if storage.is_folder(uri) else storage.glob(uri) if is_pattern(uri) else ()
            first = nsmallest(options.limit, (one.uri for one in inside if suffix_of(one.uri) in IMAGE_SUFFIXES))
            if not first:
                raise UsageError(f"{public_uri(typed)}: no such image, nor a folder or pattern with images")
            images |= {one: images.get(one, public_uri(one)) for one in first}
    return dict(list(images.items())[: options.limit])


def _matching(images: Sequence[str], references: Mapping[str, Sequence[str]]) -> list[Sequence[str]]:
    """The references of each image: by its address, else by its file name where only one image of the corpus has it.

    Raises:
        UsageError: the corpus has none of the images.
    """
    by_name: dict[str, list[str]] = {}
    for image in references:
        by_name.setdefault(_file_name(image), []).append(image)
    matched: list[Sequence[str]] = []
    for image in images:
        alike = [image] if image in references else by_name.get(_file_name(image), [])
        matched.append(references[alike[0]] if len(alike) == 1 else ())
    if not any(matched):
        raise UsageError(
            f"--corpus has no captions of {_file_name(images[0])}, nor of any other image shown; its images are "
            f"{', '.join(map(_file_name, list(references)[:3]))} …"
        )
    return matched


def _file_name(address: str) -> str:
    return address.rpartition("#")[2].rpartition("/")[2]
