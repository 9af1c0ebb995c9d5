"""An evaluation from beginning to end: what people said, captions, measures, and the card and the page of them."""

from __future__ import annotations

from dataclasses import dataclass

import captionkit
from captionkit.counting import counted
from captionkit.errors import UsageError
from captionkit.evaluation.candidates import Candidates, make_captions, read_captions, read_results
from captionkit.evaluation.card import ScoreCard, Way
from captionkit.evaluation.checks import decodings
from captionkit.evaluation.options import EvaluateOptions
from captionkit.evaluation.page import render_page
from captionkit.evaluation.references import Judged, read_references
from captionkit.metrics import Scorer, measure_usage
from captionkit.model.captioner import Captioner
from captionkit.progress import say
from captionkit.storage import Storage, redact
from captionkit.table.table import CaptionTable

CARD_MARKDOWN, CARD_JSON, PAGE = "score_card.md", "score_card.json", "page.html"


@dataclass(frozen=True)
class Evaluation:
    """What came of it."""

    card: ScoreCard
    markdown_uri: str
    json_uri: str
    page_uri: str


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Judge captions, and write score card and page into the output folder.

    Raises:
        UsageError: options that cannot work, or a corpus without the split.
        CorpusError: a corpus that cannot be understood.
        BundleError: a bundle that cannot be loaded.
        StorageError: storage that cannot be read or written.
        MetricError: pycocoevalcap is missing, or its tokenizer fails.
    """
    storage = Storage(options.storage)
    ways = decodings(options.candidates, options.search)
    judged = read_references(options.corpus, storage)
    count = len(judged.references)
    say(f"{counted(count, 'image')} to judge (split {options.corpus.split})")
    if not count:
        raise UsageError(f"--limit {options.corpus.limit}: no image is left to judge")
    # Before any captioning: what is wrong with Java or the references should not cost an hour to learn.
    with Scorer(judged.references, options.result.metrics) as scorer:
        if scorer.warning:
            say(f"figures will not be comparable with published ones: {scorer.warning}")
        for name, reason in scorer.absent.items():
            say(f"{name} will be absent: {reason}")
        facts = {"corpus": ", ".join(map(redact, options.corpus.corpus)), "split": options.corpus.split}
        facts["images"] = f"{count:,}, with {sum(map(len, judged.references.values())):,} references"
        if options.candidates.table:
            candidates = _read_candidates(options.candidates.table, judged, storage, facts)
        else:
            captioner = Captioner.load(options.candidates.model, dtype=options.candidates.dtype, storage=storage)
            captioner.check(options.search, (), "")  # before any picture is read
            images, size = list(judged.references), options.candidates.batch_size
            candidates = make_captions(captioner, images, ways, storage, size)
            facts["model"] = (
                redact(options.candidates.model or "the embedded captioner") + f" ({captioner.fingerprint})"
            )
            facts["computed on"] = f"{captioner.device}, {str(captioner.dtype).removeprefix('torch.')}"
        card = make_card(judged, candidates, scorer, facts)
    return _write(card, options, storage)


def _read_candidates(uri: str, judged: Judged, storage: Storage, facts: dict[str, str]) -> Candidates:
    """The captions of a caption table, or of a results file as COCO's own evaluation takes it."""
    if storage.exists(uri):
        keys = {image: judged.keys.get(image, image) for image in judged.references}
        found = read_results(uri, keys, storage)
        if found is not None:
            facts["results"] = redact(uri)
            return found
    table = CaptionTable(uri, storage)
    if not table.files:
        raise UsageError(
            f"--table {redact(uri)}: there is no caption table, nor a results file "
            '([{"image_id": …, "caption": …}, …])'
        )
    facts["table"] = redact(table.uri)
    facts["model"] = ", ".join(sorted({file.footer.model for file in table.files}))
    return read_captions(table, judged.references)


def make_card(judged: Judged, candidates: Candidates, scorer: Scorer, facts: dict[str, str]) -> ScoreCard:
    """Measure candidates.

    Raises:
        UsageError: not one image has a caption.
        MetricError: the tokenizer fails.
    """
    count = len(judged.references)
    if len(candidates.missing) == count:
        name, why = next(iter(candidates.missing.items()))
        raise UsageError(f"not one image could be captioned; {redact(name)}: {why}")
    ways = []
    for name, captions in candidates.captions.items():
        say(f"measuring {name}")
        seconds = candidates.seconds[name] / count if name in candidates.seconds else None
        usage = measure_usage(captions.values(), judged.known)
        ways.append(Way(name, captions, scorer.score(captions), usage, seconds))
    people = measure_usage((said for several in judged.references.values() for said in several), judged.known)
    facts = {**facts, "captionkit": captionkit.__version__}
    return ScoreCard(facts.get("model", "captions"), facts, ways, judged.references, people, candidates.missing)


def _write(card: ScoreCard, options: EvaluateOptions, storage: Storage) -> Evaluation:
    folder = storage.normalize(options.result.output)
    markdown, data, page = (storage.join(folder, name) for name in (CARD_MARKDOWN, CARD_JSON, PAGE))
    storage.write(markdown, card.to_markdown().encode())
    # Addresses that are not UTF-8 have lone surrogates in them; escaped they are JSON still.
    storage.write(data, card.to_json().encode("utf-8", "backslashreplace"))
    storage.write(page, render_page(card, storage.read, options.result.pictures).encode())
    return Evaluation(card, markdown, data, page)
