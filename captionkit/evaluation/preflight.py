"""What is checked before an evaluation starts. Imports no torch, so that errors show at once."""

from __future__ import annotations

from captionkit.errors import UsageError
from captionkit.evaluation.options import CandidateOptions, EvaluateOptions
from captionkit.inputs.named import require
from captionkit.model.bundle_files import check_bundles
from captionkit.model.search.options import SearchOptions, beam_searches
from captionkit.storage import Storage


def check_evaluation(options: EvaluateOptions, storage: Storage) -> None:
    """Check the searches, and that the files and folders that the options name exist.

    Raises:
        UsageError: a beam width does not fit the other search options, or a file or folder does not exist.
        StorageError: storage that cannot be read.
    """
    check_searches(options)
    corpus = options.corpus
    for option, addresses in (
        ("--corpus", corpus.corpus),
        ("--images", corpus.images),
        ("--split-list", (corpus.split_list,)),
        ("--table", (options.candidates.table,)),
        ("--judgements", options.result.judgements),
    ):
        require(option, filter(None, addresses), storage)
    check_bundles(options.candidates.model, storage)


def check_searches(options: EvaluateOptions) -> None:
    """Check the searches, and that they are what a calibration can be made of.

    Raises:
        UsageError: they are not.
    """
    searches = make_searches(options.candidates, options.search)
    one = len(searches) == len(options.candidates.model) == 1 and not options.candidates.table
    if options.result.calibrate and not one:
        raise UsageError("--calibrate is for one --model with one beam width, whose scores a confidence will come from")


def make_searches(candidates: CandidateOptions, search: SearchOptions) -> dict[str, SearchOptions]:
    """The searches to compare, by name.

    Raises:
        UsageError: a beam width does not fit the other search options.
    """
    try:
        return beam_searches(search, candidates.beams)
    except ValueError as error:
        raise UsageError(f"--beams: {error}") from error
