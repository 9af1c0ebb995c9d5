"""Captioned corpora in the usual formats, read as a stream of `CaptionedImage`.

    corpus = read_corpus("flickr8k/Flickr8k.token.txt", images="flickr8k/Flicker8k_Dataset")
    for image in corpus: ...
    print(corpus.report)

`read_glove` reads word vectors.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.corpus.corpus_file import Columns
    from captionkit.corpus.glove import WordVectors, read_glove
    from captionkit.corpus.images import list_images
    from captionkit.corpus.reader import READERS, Corpus, read_corpus
    from captionkit.corpus.record import CaptionedImage, CorpusError, Report

__all__ = [
    "READERS",
    "CaptionedImage",
    "Columns",
    "Corpus",
    "CorpusError",
    "Report",
    "WordVectors",
    "list_images",
    "read_corpus",
    "read_glove",
]

__getattr__ = lazy_names(
    __name__,
    {
        "READERS": "reader",
        "CaptionedImage": "record",
        "Columns": "corpus_file",
        "Corpus": "reader",
        "CorpusError": "record",
        "Report": "record",
        "WordVectors": "glove",
        "list_images": "images",
        "read_corpus": "reader",
        "read_glove": "glove",
    },
)
