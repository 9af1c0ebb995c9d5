"""What an evaluation refuses before it begins. Imports no torch, so that it is said at once."""

from __future__ import annotations

from dataclasses import replace

from captionkit.errors import UsageError
from captionkit.evaluation.options import CandidateOptions, EvaluateOptions
from captionkit.inputs.named import require
from captionkit.model.bundle_files import check_bundle
from captionkit.model.search.options import SearchOptions
from captionkit.storage import Storage


def check_evaluation(options: EvaluateOptions, storage: Storage) -> None:
    """Whether the searches make sense, and the files and folders that the options name are there.

    Raises:
        UsageError: one is not.
        StorageError: storage that cannot be read.
    """
    decodings(options.candidates, options.search)
    corpus = options.corpus
    for option, addresses in (
        ("--corpus", corpus.corpus),
        ("--images", corpus.images),
        ("--split-list", (corpus.split_list,)),
        ("--table", (options.candidates.table,)),
    ):
        require(option, filter(None, addresses), storage)
    check_bundle(options.candidates.model, storage)


def decodings(candidates: CandidateOptions, search: SearchOptions) -> dict[str, SearchOptions]:
    """The searches to compare, by name.

    Raises:
        UsageError: the search's other options do not go with a width.
    """
    try:
        return {
            _name(width, search.consensus): replace(search, method="beam", beam=width, n_best=1)
            for width in candidates.beams
        }
    except ValueError as error:
        raise UsageError(f"--beams: {error}") from error


def _name(width: int, consensus: int) -> str:
    name = "greedy" if width == 1 else f"beam {width}"
    return f"{name}, consensus of {consensus}" if consensus and width > 1 else name
