"""The Keras tutorial's merge model in a network's description: which layer is which.

    image ─ Dropout ─ Dense (ReLU) ────────────────┐
                                                   Add or Concatenate ─ Dense (ReLU) ─ Dense (softmax)
    words ─ Embedding (mask) ─ Dropout ─ LSTM ─────┘

Layers are told by what feeds them, not by their order: the words' input often comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captionkit.adopt.errors import AdoptError

_PASSED = ("Dropout", "SpatialDropout1D", "NotEqual", "InputLayer", "Activation")
_FAMILY = (
    "captionkit adopts Keras's merge model: Dense over the image, LSTM over the words, Add or Concatenate, two Dense"
)


@dataclass(frozen=True)
class MergeLayers:
    """The layers of a merge model, by name.

    Attributes:
        joined: "add", or "concat" with the image first, or "concat_words" with the words first.
        gates: the LSTM's recurrent activation, as `Merge.Config.gates` has it.
        cudnn: whether the LSTM is a CuDNNLSTM, which keeps its kernels in another layout.
        version: of Keras.
        max_length: words that the network read at most; None where it does not say.
    """

    image: str
    embedding: str
    lstm: str
    merged: str
    output: str
    joined: str
    gates: str
    cudnn: bool
    version: str
    max_length: int | None


def find_layers(keras: Mapping[str, Any]) -> MergeLayers:
    """Find the layers.

    Raises:
        AdoptError: a layer that runs code, or another kind of network; the message names the layer.
    """
    layers = {_name(layer): layer for layer in keras.get("config", {}).get("layers", ()) if isinstance(layer, dict)}
    for name, layer in layers.items():
        if layer.get("class_name") == "Lambda":
            raise AdoptError(
                f"layer {name!r} is a Lambda: its function is stored as Python bytecode, which captionkit does not "
                "read; build the network without it, load the weights, and save it again"
            )
    graph = _Graph(layers)
    version = str(keras.get("keras_version") or keras.get("config", {}).get("keras_version") or "2")
    outputs = [name for name in layers if not graph.fed_by(name) and layers[name].get("class_name") == "Dense"]
    if len(outputs) != 1:
        raise AdoptError(f"the network ends in {outputs or 'no Dense layer'}, not in one softmax. {_FAMILY}")
    output = outputs[0]
    graph.want(output, "Dense", "activation", "softmax")
    merged = graph.one_before(output)
    graph.want(merged, "Dense", "activation", "relu")
    join = graph.one_before(merged)
    graph.want(join, ("Add", "Concatenate"))
    branches = graph.before(join)
    kinds = [layers[branch]["class_name"] for branch in branches]
    recurrent = [branch for branch, kind in zip(branches, kinds, strict=True) if kind in ("LSTM", "CuDNNLSTM")]
    dense = [branch for branch, kind in zip(branches, kinds, strict=True) if kind == "Dense"]
    if len(recurrent) != 1 or len(dense) != 1 or len(branches) != 2:
        raise AdoptError(f"layer {join!r} joins {', '.join(map(repr, kinds))}. {_FAMILY}")
    lstm, image = recurrent[0], dense[0]
    graph.want(image, "Dense", "activation", "relu")
    embedding = graph.one_before(lstm)
    graph.want(embedding, "Embedding")
    if not _config(layers[embedding]).get("mask_zero"):
        raise AdoptError(
            f"layer {embedding!r} has no mask_zero: the LSTM read the padding before each caption as words, and what "
            "it predicts depends on how many there were. captionkit's decoders read words alone"
        )
    config = _config(layers[lstm])
    for option, usual in (("go_backwards", False), ("return_sequences", False), ("stateful", False)):
        if config.get(option, usual) != usual:
            raise AdoptError(f"layer {lstm!r} has {option}={config[option]}. {_FAMILY}")
    if config.get("activation", "tanh") != "tanh":
        raise AdoptError(f"layer {lstm!r} has the activation {config['activation']!r}, not tanh")
    words_first = branches.index(lstm) == 0
    joined = {"Add": "add"}.get(layers[join]["class_name"], "concat_words" if words_first else "concat")
    return MergeLayers(
        image,
        embedding,
        lstm,
        merged,
        output,
        joined,
        _gates(str(config.get("recurrent_activation", "sigmoid")), version, lstm),
        layers[lstm]["class_name"] == "CuDNNLSTM",
        version,
        graph.length(embedding),
    )


def _gates(activation: str, version: str, name: str) -> str:
    """Keras 2's hard_sigmoid is clip(0.2 x + 0.5), Keras 3's clip(x / 6 + 0.5)."""
    if activation == "hard_sigmoid":
        return "hard_sigmoid_6" if version.startswith("3") else "hard_sigmoid_5"
    if activation != "sigmoid":
        raise AdoptError(
            f"layer {name!r} has the recurrent activation {activation!r}; captionkit knows sigmoid and hard_sigmoid"
        )
    return "sigmoid"


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name") or _config(layer).get("name"))


def _config(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    config = layer.get("config")
    return config if isinstance(config, dict) else {}


class _Graph:
    """What feeds what."""

    def __init__(self, layers: Mapping[str, Mapping[str, Any]]) -> None:
        self.layers = layers
        self.inputs = {name: _inputs(layer.get("inbound_nodes")) for name, layer in layers.items()}

    def fed_by(self, name: str) -> list[str]:
        """The layers that read this one."""
        return [other for other, inputs in self.inputs.items() if name in inputs]

    def before(self, name: str) -> list[str]:
        """The layers that feed this one, past those that change nothing when captioning."""
        names = []
        for one in self.inputs.get(name, ()):
            seen = {name}
            while self.layers.get(one, {}).get("class_name") in _PASSED and one not in seen and self.inputs.get(one):
                seen.add(one)
                if self.layers[one]["class_name"] == "Activation":
                    raise AdoptError(f"layer {one!r} is an activation by itself. {_FAMILY}")
                one = self.inputs[one][0]
            if one in self.layers:
                names.append(one)
        return names

    def one_before(self, name: str) -> str:
        inputs = [one for one in self.before(name) if self.layers[one].get("class_name") != "InputLayer"]
        if len(inputs) != 1:
            raise AdoptError(f"layer {name!r} is fed by {', '.join(map(repr, inputs)) or 'an input'}. {_FAMILY}")
        return inputs[0]

    def want(self, name: str, kind: str | tuple[str, ...], option: str = "", value: str = "") -> None:
        """Raise AdoptError for a layer of another kind, or with another value of an option."""
        layer = self.layers[name]
        if layer["class_name"] not in ((kind,) if isinstance(kind, str) else kind):
            raise AdoptError(f"layer {name!r} is a {layer['class_name']}. {_FAMILY}")
        if option and _config(layer).get(option) != value:
            raise AdoptError(f"layer {name!r} has {option} {_config(layer).get(option)!r}, not {value!r}. {_FAMILY}")

    def length(self, embedding: str) -> int | None:
        """Words that the input before the embedding holds."""
        for name in self.inputs.get(embedding, ()):
            config = _config(self.layers.get(name, {}))
            shape = config.get("batch_shape") or config.get("batch_input_shape")
            if isinstance(shape, (list, tuple)) and len(shape) == 2 and isinstance(shape[1], int):
                return shape[1]
        return None


def _inputs(nodes: Any) -> list[str]:
    """Names of layers in inbound_nodes, of Keras 2 ([["name", 0, 0, {}]]) and 3 ({"args": [{… "keras_history"}]})."""
    if isinstance(nodes, dict):
        history = _config(nodes).get("keras_history") if nodes.get("class_name") == "__keras_tensor__" else None
        return [str(history[0])] if history else _inputs(nodes.get("args"))
    if isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and all(isinstance(number, int) for number in nodes[1:3]):
            return [nodes[0]]
        return [name for node in nodes for name in _inputs(node)]
    return []
