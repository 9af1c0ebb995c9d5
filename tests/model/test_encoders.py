"""Encoders: features as torchvision computes them, weights as torchvision saves them."""

import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.resnet import BasicBlock

from captionkit.images import Preprocessing
from captionkit.model.encoders import EncoderError, build_encoder, default_preprocessing, encoder_names
from captionkit.model.encoders.tiny_resnet import Block

SQUEEZENET = Path(__file__).parents[3] / "shared" / "weights" / "squeezenet1_1.pth"
SMALL = Preprocessing(size=64, resize=64)


def pixels(images: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(images)
    return torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8, generator=generator)


def normalised(images: Tensor, preprocessing: Preprocessing = SMALL) -> Tensor:
    """As torchvision's own transforms do it."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def shapes_only(name: str) -> dict[str, Tensor]:
    """A state dict without data, in which every network costs nothing."""
    with torch.device("meta"):
        return dict(models.get_model(name, weights=None).state_dict())


@pytest.mark.parametrize(
    ("name", "pooled", "grid"),
    [
        ("resnet18", (512,), (49, 512)),
        ("vgg16", (4096,), (196, 512)),
        ("squeezenet1_1", (512,), (169, 512)),
        ("mobilenet_v3_small", (1024,), (49, 576)),
        ("shufflenet_v2_x0_5", (1024,), (49, 1024)),
        ("convnext_tiny", (768,), (49, 768)),
    ],
)
def test_what_a_network_gives(name: str, pooled: tuple[int, ...], grid: tuple[int, ...]) -> None:
    size = default_preprocessing(name).size
    images = torch.empty(2, size, size, 3, dtype=torch.uint8, device="meta")
    for output, shape in (("pooled", pooled), ("grid", grid)):
        encoder = build_encoder(name, output, shapes_only(name)).to("meta")
        assert encoder.feature_size == shape[-1]
        assert encoder(images).shape == (2, *shape)
        assert not encoder.training


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(encoder_names()) - {"tiny_resnet"}))
def test_every_network_can_be_an_encoder(name: str) -> None:
    if re.search(r"large|_l$|_b[4567]$|152|(16|32|128)gf|101", name):
        pytest.skip("as its smaller brothers, and takes long")
    weights = dict(models.get_model(name, weights=None).state_dict())
    for output in ("pooled", "grid"):
        encoder = build_encoder(name, output, weights)
        images = pixels(1, encoder.preprocessing.size)
        with torch.inference_mode():
            features = encoder(images)
        assert features.shape[-1] == encoder.feature_size
        assert features.isfinite().all()


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)])
def test_its_block_is_torchvisions(inputs: int, outputs: int) -> None:
    ours = Block(inputs, outputs).eval()
    halving = inputs != outputs
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
    theirs = BasicBlock(inputs, outputs, 1 + halving, shortcut if halving else None).eval()
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(2, inputs, 9, 9)
    assert torch.equal(ours(maps), theirs(maps))


def test_the_networks_own_small_one_gives_attributes() -> None:
    encoder = build_encoder("tiny_resnet", weights="none")
    features = encoder(pixels(2, encoder.preprocessing.size))
    assert features.shape == (2, encoder.feature_size)
    assert ((features >= 0) & (features <= 1)).all()
    again = build_encoder("tiny_resnet", weights=encoder.network.state_dict())
    assert torch.equal(again(pixels(2, 96)), features)
    assert build_encoder("tiny_resnet", "grid", "none")(pixels(1, 96)).shape == (1, 9, 160)
    with pytest.raises(EncoderError, match="no pretrained weights"):
        build_encoder("tiny_resnet")


def test_a_grid_averaged_to_fewer_places() -> None:
    whole = build_encoder("resnet18", "grid", "none", Preprocessing(size=128, resize=128))
    fewer = build_encoder("resnet18", "grid", whole.network.state_dict(), whole.preprocessing, grid=2)
    with torch.no_grad():
        places, averaged = whole(pixels(2, 128)), fewer(pixels(2, 128))
    assert places.shape == (2, 16, 512)
    corner = places.view(2, 4, 4, 512)[:, :2, 2:].mean(dim=(1, 2))
    torch.testing.assert_close(averaged[:, 1], corner)
    again = build_encoder(**fewer.config, weights=fewer.network.state_dict(), preprocessing=fewer.preprocessing)
    assert again(pixels(1, 128)).shape == (1, 4, 512)
    with pytest.raises(EncoderError, match="grid=7 is for grid features"):
        build_encoder("resnet18", "pooled", "none", grid=7)


def test_values_are_torchvisions() -> None:
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    inputs = normalised(pixels())
    encoder = build_encoder("resnet18", "pooled", network.state_dict(), SMALL)
    grid_encoder = build_encoder("resnet18", "grid", network.state_dict(), SMALL)
    third_encoder = build_encoder("resnet18", "grid", network.state_dict(), SMALL, layer="layer3")
    with torch.no_grad():
        logits = network(inputs)
        features, grid, third = (model(pixels()) for model in (encoder, grid_encoder, third_encoder))
        torch.testing.assert_close(network.fc(features), logits)
        assert grid.shape == (2, 4, 512)
        torch.testing.assert_close(network.fc(grid.mean(dim=1)), logits)
        assert third.shape == (2, 16, 256)
        torch.testing.assert_close(network.layer4(third.transpose(1, 2).unflatten(2, (4, 4))).flatten(2).mT, grid)


def test_inception_reads_pixels_from_minus_one_to_one() -> None:
    network = models.inception_v3(weights=None, transform_input=True, init_weights=False).eval()
    preprocessing = default_preprocessing("inception_v3", size=80)
    encoder = build_encoder("inception_v3", "grid", network.state_dict(), preprocessing, layer="Conv2d_1a_3x3")
    images = pixels(1, 80)
    with torch.no_grad():
        theirs = network.Conv2d_1a_3x3(network._transform_input(normalised(images)))
        torch.testing.assert_close(encoder(images), theirs.flatten(2).mT, atol=1e-4, rtol=1e-4)
    assert not any(key.startswith(("Aux", "fc")) for key in encoder.network.state_dict())


def test_densenets_old_keys_are_understood() -> None:
    network = models.densenet121(weights=None)
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key: tensor
        for key, tensor in network.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    encoder = build_encoder("densenet121", "pooled", old, SMALL)
    assert encoder.feature_size == 1024


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="needs ../shared/weights/squeezenet1_1.pth")
def test_a_real_file_of_half_precision_weights() -> None:
    weights = torch.load(SQUEEZENET, weights_only=True)
    assert any(key.startswith("classifier") for key in weights)
    encoder = build_encoder("squeezenet1_1", "pooled", weights)
    images = pixels(1, 224)
    with torch.no_grad():
        features = encoder(images)
    assert features.dtype == torch.float32
    network = models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        theirs = functional.adaptive_avg_pool2d(network.features(normalised(images)), 1).flatten(1)
    torch.testing.assert_close(features, theirs, atol=1e-4, rtol=1e-4)


def test_memory_and_dtype() -> None:
    encoder = build_encoder("squeezenet1_1", "grid", "none", SMALL)
    assert encoder.network.get_parameter("features.0.weight").is_contiguous(memory_format=torch.channels_last)
    assert not any("scale" in key or "shift" in key for key in encoder.state_dict())
    with torch.no_grad():
        features = encoder(pixels())
        assert features.is_contiguous()
        half = encoder.to(torch.bfloat16)(pixels())
    assert half.dtype == torch.bfloat16
    assert (half.float() - features).norm() < 0.05 * features.norm()


def test_config_makes_its_like() -> None:
    encoder = build_encoder("squeezenet1_1", "grid", "none", SMALL, layer="features.5")
    again = build_encoder(**encoder.config, weights=encoder.network.state_dict(), preprocessing=SMALL)
    with torch.no_grad():
        assert torch.equal(again(pixels()), encoder(pixels()))


def test_weights_given_are_copied() -> None:
    weights = {key: tensor.half() for key, tensor in models.squeezenet1_1(weights=None).state_dict().items()}
    encoder = build_encoder("squeezenet1_1", "pooled", weights, SMALL)
    for tensor in weights.values():
        tensor.zero_()
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())
    assert encoder.network.get_parameter("features.0.weight").abs().sum() > 0


def test_preprocessing_is_that_of_the_weights() -> None:
    assert default_preprocessing("resnet50") == Preprocessing(size=224, resize=232)
    assert default_preprocessing("efficientnet_b0").interpolation == "bicubic"
    assert default_preprocessing("squeezenet1_1", size=112) == Preprocessing(size=112, resize=128)
    inception = default_preprocessing("inception_v3")
    assert (inception.size, inception.resize, inception.mean) == (299, 342, (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5"}, "no classification network 'resnet5'; close to it: resnet50"),
        ({"name": "zzz"}, "'zzz'; close to it: tiny_resnet, efficientnet_lite0"),
        ({"name": "vit_b_16"}, "vit_b_16 is a transformer; encoders are convolutional"),
        ({"name": "maxvit_t"}, "maxvit_t is a transformer"),
        ({"output": "map"}, 'is "pooled" or "grid", not \'map\''),
        ({"weights": "imagenet"}, '"pretrained", "package", "none" or a state dict, not \'imagenet\''),
        ({"layer": "layer5"}, "has no layer 'layer5'; its parts are: features, classifier"),
        ({"layer": "flatten"}, "up to layer 'flatten'"),
        ({"preprocessing": Preprocessing(size=8, resize=8)}, "squeezenet1_1 cannot read images of 8×8"),
    ],
)
def test_what_cannot_be_built(arguments: dict[str, object], message: str) -> None:
    everything = {"name": "squeezenet1_1", "weights": "none", "preprocessing": SMALL, **arguments}
    with pytest.raises(EncoderError, match=message):
        build_encoder(**everything)  # type: ignore[arg-type]


def test_some_layers_alone_are_trained() -> None:
    encoder = build_encoder("squeezenet1_1", "grid", "none", SMALL)
    encoder.train_only(["features.12"])
    trained = {name for name, weights in encoder.network.named_parameters() if weights.requires_grad}
    assert trained == {name for name, _ in encoder.network.named_parameters() if name.startswith("features.12.")}
    with pytest.raises(EncoderError, match=r"no weights called 'features\.1'; it has: features\.0, features\.3"):
        encoder.train_only(["features.1"])  # a ReLU, and no beginning of "features.12"


def test_weights_of_another_network() -> None:
    weights = dict(models.squeezenet1_1(weights=None).state_dict())
    with pytest.raises(EncoderError, match=r"of resnet18: 100 tensors missing \(conv1.weight"):
        build_encoder("resnet18", "pooled", weights, SMALL)
    with pytest.raises(EncoderError, match=r"1 tensors too many \(decoder.weight\)"):
        build_encoder("squeezenet1_1", "pooled", {**weights, "decoder.weight": torch.ones(1)}, SMALL)
    weights["features.0.weight"] = torch.ones(64, 3, 5, 5)
    with pytest.raises(EncoderError, match=r"features.0.weight is \(64, 3, 5, 5\), not \(64, 3, 3, 3\)"):
        build_encoder("squeezenet1_1", "pooled", weights, SMALL)


def test_files_from_before_batch_counters() -> None:
    old = {key: t for key, t in models.resnet18(weights=None).state_dict().items() if "num_batches" not in key}
    assert build_encoder("resnet18", "pooled", old, SMALL)(pixels()).shape == (2, 512)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(EncoderError, match=r"squeezenet1_1 cannot be downloaded .*no route to host.*give a file"):
        build_encoder("squeezenet1_1")


@torch.no_grad()
def test_caffes_resnet_has_its_stride_and_pooling() -> None:
    """Written anew: the first convolution of a stage has its stride, and the pooling no padding."""
    torch.manual_seed(0)
    resnet = models.resnet50(weights=None).eval()
    encoder = build_encoder("caffe_resnet50", "grid", resnet.state_dict(), SMALL)
    maps = functional.max_pool2d(resnet.relu(resnet.bn1(resnet.conv1(normalised(pixels())))), 3, 2, ceil_mode=True)
    assert maps.shape[2:] == (16, 16)
    for number, stage in enumerate((resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)):
        for place, block in enumerate(stage):
            stride = 2 if number and not place else 1
            out = torch.relu(block.bn1(functional.conv2d(maps, block.conv1.weight, stride=stride)))
            out = torch.relu(block.bn2(functional.conv2d(out, block.conv2.weight, padding=1)))
            out = block.bn3(block.conv3(out))
            maps = torch.relu(out + (maps if block.downsample is None else block.downsample(maps)))
    torch.testing.assert_close(encoder(pixels()), maps.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)
    usual = build_encoder("resnet50", "grid", resnet.state_dict(), SMALL)
    assert (usual(pixels()) - encoder(pixels())).abs().mean() > 0.05
    assert default_preprocessing("caffe_resnet101").size == 448
    with pytest.raises(EncoderError, match="no pretrained weights"):
        build_encoder("caffe_resnet101")
