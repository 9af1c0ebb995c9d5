#!/usr/bin/env bash
# timm 1.0.31's legacy_xception, whose weights are "ported from the Keras implementation", computes other features from the
# same weights than Keras 3.15.1's Xception does, and nothing fails:
# - Keras pools with TensorFlow's SAME, which pads the 74 × 74 map behind only; timm pads a pixel on every side.
# - Keras's batch norms have the epsilon 1e-3, timm's 1e-5.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q keras==3.15.1 timm==1.0.31 torch numpy
cd "$home"
KERAS_BACKEND=torch "$home/venv/bin/python" - <<'PYTHON'
import keras
import numpy
import timm
import torch

random = numpy.random.default_rng(0)
network = keras.applications.Xception(weights=None)
for layer in network.layers:
    if type(layer).__name__ in ("Conv2D", "SeparableConv2D"):  # values of a size that goes through, as trained ones do
        shapes = [one.shape for one in layer.get_weights()]
        fans = [numpy.prod(shape[:3]) if shape[3] > 1 else 9 for shape in shapes]
        layer.set_weights([random.normal(0, (2 / fan) ** 0.5, shape) for shape, fan in zip(shapes, fans)])
    if isinstance(layer, keras.layers.BatchNormalization):
        size = layer.get_weights()[0].shape
        layer.set_weights([random.uniform(*ends, size) for ends in ((0.5, 1.5), (-0.3, 0.3), (-0.3, 0.3), (0.5, 2))])
features = keras.Model(network.input, network.layers[-2].output)

port = timm.create_model("legacy_xception", num_classes=0).eval()
kinds = {kind: [one for one in network.layers if type(one).__name__ == kind] for kind in ("Conv2D", "SeparableConv2D")}


def copy(array, parameter):
    parameter.data.copy_(torch.from_numpy(numpy.asarray(array)).reshape(parameter.shape))


def copy_norm(name, module):
    weights = network.get_layer(name).get_weights()
    for array, own in zip(weights, (module.weight, module.bias, module.running_mean, module.running_var)):
        copy(array, own)


separable = iter(kinds["SeparableConv2D"])
for name, module in port.named_modules():
    if type(module).__name__ == "SeparableConv2d":
        layer = next(separable)
        depthwise, pointwise = layer.get_weights()
        copy(depthwise.transpose(2, 3, 0, 1), module.conv1.weight)
        copy(pointwise.transpose(3, 2, 0, 1), module.pointwise.weight)
        parent, _, place = name.rpartition(".")
        norm = f"{parent}.{int(place) + 1}" if place.isdigit() else name.replace("conv", "bn")
        copy_norm(f"{layer.name}_bn", port.get_submodule(norm))
plain = [one for one in kinds["Conv2D"] if not one.name.startswith("block")]
norms = [one.name for one in network.layers if one.name.startswith("batch_normalization")]
for conv, norm, block in zip(plain, norms, (port.block1, port.block2, port.block3, port.block12)):
    copy(conv.get_weights()[0].transpose(3, 2, 0, 1), block.skip.weight)
    copy_norm(norm, block.skipbn)
for number in (1, 2):
    [kernel] = network.get_layer(f"block1_conv{number}").get_weights()
    copy(kernel.transpose(3, 2, 0, 1), getattr(port, f"conv{number}").weight)
    copy_norm(f"block1_conv{number}_bn", getattr(port, f"bn{number}"))

pixels = random.uniform(-1, 1, (1, 299, 299, 3)).astype("float32")
expected = numpy.asarray(features.predict(pixels, verbose=0))


def off():
    with torch.no_grad():
        found = port(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


as_it_is = off()
for module in port.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.eps = 1e-3
with_epsilon = off()
for module in port.modules():
    if isinstance(module, torch.nn.MaxPool2d):
        module.forward = lambda maps: torch.nn.functional.max_pool2d(
            maps, 3, 2, padding=(maps.shape[2] % 2, maps.shape[3] % 2), ceil_mode=True
        )
with_both = off()
print(f"features off by {as_it_is:.4f}; with Keras's epsilon {with_epsilon:.4f}; with its padding too {with_both:.7f}")
assert with_both < 1e-4
assert min(as_it_is, with_epsilon) > 1e-2
PYTHON
