"""An evaluation from beginning to end: references, candidates, metrics, score card and page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import captionkit
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.evaluation.candidates import Candidates, make_captions, read_captions, read_results
from captionkit.evaluation.card import Decoding, ScoreCard
from captionkit.evaluation.confidence import (
    MIN_CAPTIONS,
    Reliability,
    calibrate,
    crossed_chances,
    judged_bound,
    measure,
    people_bound,
    read_judgements,
)
from captionkit.evaluation.options import EvaluateOptions
from captionkit.evaluation.page import render_page
from captionkit.evaluation.preflight import make_searches
from captionkit.evaluation.references import ReferenceSet, read_references
from captionkit.metrics import Scorer, measure_usage
from captionkit.model.bundle_files import CALIBRATION, DESCRIPTION, fingerprint, read_files, write_files
from captionkit.model.calibration import Calibration
from captionkit.model.captioner import Captioner
from captionkit.model.search.options import SearchOptions
from captionkit.progress import log_line
from captionkit.storage import Storage, redact
from captionkit.table.table import CaptionTable

CARD_MARKDOWN, CARD_JSON, PAGE = "score_card.md", "score_card.json", "page.html"


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: the score card, and the addresses of its files."""

    card: ScoreCard
    markdown_uri: str
    json_uri: str
    page_uri: str


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Score captions against references, and write score card and page into the output folder.

    Raises:
        UsageError: options that exclude each other, or a corpus without the split.
        CorpusError: the corpus cannot be read as a whole.
        BundleError: the bundle cannot be loaded.
        StorageError: storage cannot be read or written.
        MetricError: pycocoevalcap is missing, or its tokenizer fails.
    """
    storage = Storage(options.storage)
    searches = make_searches(options.candidates, options.search)
    reference_set = read_references(options.corpus, storage)
    count = len(reference_set.references)
    log_line(f"{counted(count, 'image')} to evaluate (split {options.corpus.split})")
    if not count:
        raise UsageError(f"--limit {options.corpus.limit}: no image is left to evaluate")
    # Before captioning, which may take an hour: problems with Java or the references should show at once.
    with Scorer(reference_set.references, options.result.metrics) as scorer:
        if scorer.warning:
            log_line(f"figures will not be comparable with published ones: {scorer.warning}")
        for name, reason in scorer.absent.items():
            log_line(f"{name} will be absent: {reason}")
        if options.candidates.table:
            candidates, source = _read_candidates(options.candidates.table, reference_set, storage)
        else:
            candidates, source = _make_candidates(options, list(reference_set.references), searches, storage)
        card = make_card(reference_set, candidates, scorer, {**_corpus_facts(options, reference_set), **source})
        if "CIDEr-D" in options.result.metrics and candidates.scores:
            card = _with_reliability(card, candidates, scorer, options, reference_set, storage)
    if card.calibration and options.result.calibrate:
        name = write_calibrated(_bundle(options), card.calibration, options.result.calibrate, storage)
        log_line(f"captioner with a calibration: {redact(options.result.calibrate)} ({name})")
    return _write(card, options, storage)


def _with_reliability(
    card: ScoreCard,
    candidates: Candidates,
    scorer: Scorer,
    options: EvaluateOptions,
    reference_set: ReferenceSet,
    storage: Storage,
) -> ScoreCard:
    """The card with what scores tell. With --calibrate also a calibration; the captions are then judged by tables that
    were fitted without them."""
    tokens = scorer.tokenized_references
    result = options.result
    if result.judgements:
        judgements = [one for uri in result.judgements for one in read_judgements(uri, storage)]
        keyed = {reference_set.keys.get(image, image): texts for image, texts in tokens.items()}
        source = " and ".join(redact(uri).rpartition("/")[2] for uri in result.judgements)
        bound = judged_bound(judgements, keyed, source)
    else:
        bound = people_bound(list(tokens.values()), 1 - result.acceptable)
    reliability: dict[str, Reliability] = {}
    calibration = None
    for decoding in card.decodings:
        of_captions = candidates.scores.get(decoding.name, {})
        if not of_captions:
            continue
        scores = np.array(list(of_captions.values()), np.float64)
        acceptable = np.array([decoding.scores.images[image]["CIDEr-D"] >= bound.cider for image in of_captions])
        chances, fitted = None, ""
        if result.calibrate and len(scores) < MIN_CAPTIONS:
            log_line(f"no calibration: {counted(len(scores), 'caption')} are too few; at least {MIN_CAPTIONS}")
        elif result.calibrate:
            calibration = calibrate(scores, acceptable, bound, decoding.name)
            chances, fitted = crossed_chances(scores, acceptable), "each by a table fitted on the other images of these"
        elif known := candidates.confidences.get(decoding.name):
            chances, fitted = np.array([known[image] for image in of_captions]), "by the captioner's own table"
        reliability[decoding.name] = measure(scores, acceptable, bound, chances, fitted)
    return replace(card, reliability=reliability, calibration=calibration)


def write_calibrated(model: str | None, calibration: Calibration, uri: str, storage: Storage) -> str:
    """Write a bundle with a calibration to an address, weights and words unchanged; its fingerprint.

    Raises:
        BundleError: there is no such bundle.
        StorageError: storage cannot be read or written.
    """
    files = read_files(model, storage)
    description = json.loads(files[DESCRIPTION]) | {CALIBRATION: calibration.to_json()}
    files[DESCRIPTION] = (json.dumps(description, indent=2, sort_keys=True) + "\n").encode()
    write_files(files, storage.normalize(uri), storage)
    return fingerprint(files)


def is_judged(options: EvaluateOptions) -> bool:
    """Whether the output folder has a score card of this very captioner, with these searches.

    Raises:
        BundleError: there is no such bundle.
        StorageError: storage cannot be read.
    """
    storage = Storage(options.storage)
    card = storage.join(storage.normalize(options.result.output), CARD_JSON)
    if not storage.exists(card):
        return False
    previous = json.loads(storage.read(card))
    known = fingerprint(read_files(_bundle(options), storage))
    searches = make_searches(options.candidates, options.search)
    same_split = previous["facts"]["split"] == options.corpus.split
    return known in previous["facts"].get("model", "") and list(previous["scores"]) == list(searches) and same_split


def calibrate_again(options: EvaluateOptions) -> None:
    """Give the captioner the calibration that the score card in the output folder has, where one was asked for.

    Raises:
        BundleError, StorageError: as `write_calibrated`.
    """
    if not options.result.calibrate:
        return
    storage = Storage(options.storage)
    card = json.loads(storage.read(storage.join(storage.normalize(options.result.output), CARD_JSON)))
    if card["calibration"] is not None:
        calibration = Calibration.from_json(card["calibration"])
        write_calibrated(_bundle(options), calibration, options.result.calibrate, storage)


def _bundle(options: EvaluateOptions) -> str | None:
    """The one bundle that is judged; None for the embedded one. A calibration and a recipe are of one."""
    return options.candidates.model[0] if options.candidates.model else None


def _corpus_facts(options: EvaluateOptions, reference_set: ReferenceSet) -> dict[str, str]:
    """What the card says about the corpus."""
    captions = sum(map(len, reference_set.references.values()))
    return {
        "corpus": ", ".join(map(redact, options.corpus.corpus)),
        "split": options.corpus.split,
        "images": f"{len(reference_set.references):,}, with {counted(captions, 'reference')}",
    }


def _make_candidates(
    options: EvaluateOptions, images: Sequence[str], searches: Mapping[str, SearchOptions], storage: Storage
) -> tuple[Candidates, dict[str, str]]:
    """Captions by a captioner, and what the card says about it."""
    model = options.candidates.model
    captioner = Captioner.load(model, dtype=options.candidates.dtype, storage=storage)
    captioner.check(options.search, (), "")  # before any image is read
    candidates = make_captions(captioner, images, searches, storage, options.candidates.batch_size)
    return candidates, {
        "model": (" and ".join(map(redact, model)) or "the embedded captioner") + f" ({captioner.fingerprint})",
        "computed on": f"{captioner.device}, {str(captioner.dtype).removeprefix('torch.')}",
    }


def _read_candidates(uri: str, reference_set: ReferenceSet, storage: Storage) -> tuple[Candidates, dict[str, str]]:
    """Captions from a caption table or from a results file in COCO's format, and what the card says about it."""
    if storage.exists(uri):
        keys = {image: reference_set.keys.get(image, image) for image in reference_set.references}
        candidates = read_results(uri, keys, storage)
        if candidates is not None:
            return candidates, {"results": redact(uri)}
    table = CaptionTable(uri, storage)
    if not table.files:
        raise UsageError(
            f"--table {redact(uri)}: there is no caption table, nor a results file "
            '([{"image_id": …, "caption": …}, …])'
        )
    models = ", ".join(sorted({maker.model for file in table.files for maker in file.footer.makers()}))
    return read_captions(table, reference_set.references), {"table": redact(table.uri), "model": models}


def make_card(reference_set: ReferenceSet, candidates: Candidates, scorer: Scorer, facts: dict[str, str]) -> ScoreCard:
    """Compute all metrics of the candidates.

    Args:
        facts: what the card says about the corpus and the captioner, in order.

    Raises:
        UsageError: no image has a caption.
        MetricError: the tokenizer fails.
    """
    count = len(reference_set.references)
    if len(candidates.missing) == count:
        name, why = next(iter(candidates.missing.items()))
        raise UsageError(f"no image could be captioned; {redact(name)}: {why}")
    decodings = []
    for name, captions in candidates.captions.items():
        log_line(f"measuring {name}")
        seconds = candidates.seconds[name] / count if name in candidates.seconds else None
        usage = measure_usage(captions.values(), reference_set.training_captions)
        decodings.append(Decoding(name, captions, scorer.score(captions), usage, seconds))
    all_references = [text for texts in reference_set.references.values() for text in texts]
    return ScoreCard(
        title=facts.get("model", "captions"),
        facts={**facts, "captionkit": captionkit.__version__},
        decodings=decodings,
        references=reference_set.references,
        reference_usage=measure_usage(all_references, reference_set.training_captions),
        missing=candidates.missing,
    )


def _write(card: ScoreCard, options: EvaluateOptions, storage: Storage) -> Evaluation:
    folder = storage.normalize(options.result.output)
    markdown, data, page = (storage.join(folder, name) for name in (CARD_MARKDOWN, CARD_JSON, PAGE))
    storage.write(markdown, card.to_markdown().encode())
    # Addresses that are not UTF-8 contain lone surrogates; escaped, they are valid JSON.
    storage.write(data, card.to_json().encode("utf-8", "backslashreplace"))
    storage.write(page, render_page(card, storage.read, options.result.pictures).encode())
    return Evaluation(card, markdown, data, page)
