"""Convolutional networks that turn pixels into features: any of torchvision's classification CNNs by name, and ours.

"pooled" features (N, D) are the input of the network's last linear layer: the 4096 values of VGG16's FC-2, 2048 of
Inception v3 and ResNet-50; of SqueezeNet, which has no linear layer, the mean of its last map, 512.
"grid" features (N, P, D) are the last feature map before it is pooled, one vector for each place, row by row; averaged
to fewer places if asked for (adaptive pooling, as in Rennie et al. 2017, arXiv:1612.00563).
"""

from captionkit.model.encoders.build import build_encoder, default_preprocessing
from captionkit.model.encoders.encoder import NO_NETWORK, Encoder, EncoderError, Output
from captionkit.model.encoders.networks import encoder_names

__all__ = [
    "NO_NETWORK",
    "Encoder",
    "EncoderError",
    "Output",
    "build_encoder",
    "default_preprocessing",
    "encoder_names",
]
