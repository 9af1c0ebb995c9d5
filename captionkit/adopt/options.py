"""AdoptOptions: what `captionkit adopt` is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from captionkit.storage.options import StorageOptions

Kind = Literal["auto", "tutorial", "udacity", "inception", "keras-merge", "sgrvinod", "ruotianluo", "im2txt"]


@dataclass(frozen=True)
class AdoptOptions:
    """Make a bundle of a captioner's files, whatever their names and order."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Files and folders: weights, vocabulary, descriptions."""
    output: str
    """Folder of the bundle to write."""
    kind: Kind = "auto"
    """Which project's captioner it is: the PyTorch tutorial's, Udacity's, its variant with Inception v3, the Keras
    tutorial's merge model, sgrvinod's with attention, one of ruotianluo's, or Google's im2txt; auto: found out."""
    rename: tuple[str, ...] = ()
    """OLD=NEW: tensors whose names begin with OLD begin with NEW instead."""
    markers: tuple[str, ...] = ()
    """start=WORD, end=WORD, pad=WORD, unk=WORD: the vocabulary's markers; a number can stand for a word."""
    index_base: int | None = None
    """The number of the vocabulary's first word, where the file does not tell (1 for most of Keras's)."""
    preprocessing: tuple[str, ...] = ()
    """size=224 resize=256 mode=crop interpolation=bilinear mean=0.5,0.5,0.5 …: over the project's own."""
    encoder: str = ""
    """The encoder, where the files hold none: vgg16, inception_v3 … or any of torchvision's; none: the bundle captions
    features alone, of Keras's tutorial and ruotianluo's."""
    encoder_weights: str | None = None
    """Weights of the encoder: an .h5 file of keras.applications, or a PyTorch file of torchvision's."""
    try_images: Annotated[tuple[str, ...], tyro.conf.arg(name="try")] = ()
    """Images to caption at the end; without any, scenes that captionkit draws."""
    captions: str | None = None
    """Write the captions of all images whose features were given (encoded_test_images.pkl): JSON, an image a line."""
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)
