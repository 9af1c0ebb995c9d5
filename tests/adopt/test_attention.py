"""sgrvinod's captioner: an adopted bundle computes what the original does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from captionkit.adopt.errors import AdoptError
from captionkit.adopt.job import adopt
from captionkit.adopt.options import AdoptOptions
from captionkit.images import prepare
from captionkit.model.captioner import Captioner
from captionkit.model.decoders import AttentionDecoder
from tests.adopt import originals
from tests.adopt.originals import WORDS, photo, save_torch

WORDMAP = {word: n for n, word in enumerate([*WORDS, "<unk>", "<start>", "<end>"], 1)} | {"<pad>": 0}
EMBED, HIDDEN, ATTENTION, FEATURES = 12, 16, 10, 512


class Encoder(nn.Module):
    """A ResNet without its last two layers, pooled to 14 × 14 places."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((14, 14))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.adaptive_pool(self.resnet(images)).permute(0, 2, 3, 1).flatten(1, 2)
        return out


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(FEATURES, ATTENTION)
        self.decoder_att = nn.Linear(HIDDEN, ATTENTION)
        self.full_att = nn.Linear(ATTENTION, 1)

    def forward(self, grid: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        energy = self.full_att(torch.relu(self.encoder_att(grid) + self.decoder_att(hidden).unsqueeze(1))).squeeze(2)
        alpha = torch.softmax(energy, dim=1)
        return (grid * alpha.unsqueeze(2)).sum(dim=1), alpha


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.embedding = nn.Embedding(len(WORDMAP), EMBED)
        self.decode_step = nn.LSTMCell(EMBED + FEATURES, HIDDEN)
        self.init_h, self.init_c = nn.Linear(FEATURES, HIDDEN), nn.Linear(FEATURES, HIDDEN)
        self.f_beta = nn.Linear(HIDDEN, FEATURES)
        self.fc = nn.Linear(HIDDEN, len(WORDMAP))

    def forward(self, grid: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention for what follows each token."""
        hidden, cell = self.init_h(grid.mean(dim=1)), self.init_c(grid.mean(dim=1))
        logits, alphas = [], []
        for token in captions.unbind(1):
            context, alpha = self.attention(grid, hidden)
            context = torch.sigmoid(self.f_beta(hidden)) * context
            hidden, cell = self.decode_step(torch.cat([self.embedding(token), context], dim=1), (hidden, cell))
            logits.append(self.fc(hidden))
            alphas.append(alpha)
        return torch.stack(logits, dim=1), torch.stack(alphas, dim=1)


def pixels(image: Image.Image) -> Tensor:
    array = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR), np.float32) / 255
    normal = (array - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)


@torch.no_grad()
def test_a_checkpoint_and_its_word_map_say_what_they_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, decoder = Encoder().eval(), Decoder().eval()
    originals.sharpen(decoder, 1)
    checkpoint = {"epoch": 3, "bleu-4": 0.2, "encoder": encoder, "decoder": decoder, "decoder_optimizer": {"state": {}}}
    save_torch(checkpoint, tmp_path / "BEST_checkpoint.pth.tar", legacy=True)
    (tmp_path / "WORDMAP.json").write_text(json.dumps(WORDMAP))
    photo(0).save(tmp_path / "photo.png")
    files = (str(tmp_path / "WORDMAP.json"), str(tmp_path / "BEST_checkpoint.pth.tar"))
    options = AdoptOptions(files, str(tmp_path / "bundle"), try_images=(str(tmp_path / "photo.png"),))
    adopted, _ = adopt(options, print)
    assert adopted.kind == "sgrvinod"
    captioner = Captioner.load(tmp_path / "bundle", device="cpu", dtype="float32")
    spelled = sorted(WORDMAP, key=lambda word: WORDMAP[word])
    new = [captioner.vocabulary.words.index(word) for word in spelled]
    tokens = torch.tensor([[WORDMAP["<start>"], 3, 9, 1]])
    for seed in (0, 1):
        expected, alphas = decoder(encoder(pixels(photo(seed))), tokens)
        features = captioner.encode(prepare(photo(seed), captioner.preprocessing)[None])
        assert isinstance(captioner.decoder, AttentionDecoder)
        found, weights = captioner.decoder.attend(features, torch.tensor([[new[n] for n in tokens[0]]]))
        torch.testing.assert_close(found[..., new], expected, rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(weights, alphas, rtol=1e-3, atol=1e-5)
    state = {key: tensor for key, tensor in decoder.state_dict().items() if key != "f_beta.bias"}
    save_torch({"encoder": encoder, "decoder": state}, tmp_path / "other.pth.tar")
    with pytest.raises(AdoptError, match=r"missing or unknown are f_beta\.bias"):
        adopt(AdoptOptions((files[0], str(tmp_path / "other.pth.tar")), str(tmp_path / "b2")), print)
