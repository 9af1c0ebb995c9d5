"""Captioned corpora in the formats the field uses, as one record type.

    corpus = read_corpus("flickr8k/Flickr8k.token.txt", images="flickr8k/Flicker8k_Dataset")
    for record in corpus: ...
    print(corpus.report)

`glove.py` reads word vectors.
"""

from captionkit.corpus.corpus_file import Columns
from captionkit.corpus.images import list_images
from captionkit.corpus.reader import Corpus, read_corpus
from captionkit.corpus.record import CorpusError, Record, Report

__all__ = ["Columns", "Corpus", "CorpusError", "Record", "Report", "list_images", "read_corpus"]
