"""Captioned corpora in the usual formats, read as a stream of `CaptionedImage`.

    corpus = read_corpus("flickr8k/Flickr8k.token.txt", images="flickr8k/Flicker8k_Dataset")
    for image in corpus: ...
    print(corpus.report)

`read_glove` reads word vectors.
"""

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
