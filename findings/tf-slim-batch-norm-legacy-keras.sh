#!/usr/bin/env bash
# slim's batch norm, and with it all of its networks, cannot be built with TensorFlow 2.21.0 and tf_keras 2.21.0:
# tensorflow/python/layers/normalization.py loads tf_keras.legacy_tf_layers, which tf_keras has under tf_keras.src only.
# With that module put where TensorFlow looks for it, slim works.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q tensorflow-cpu==2.21.0 tf_keras==2.21.0 tf_slim==1.1.0
cd "$home"
TF_CPP_MIN_LOG_LEVEL=3 TF_USE_LEGACY_KERAS=1 "$home/venv/bin/python" - <<'PYTHON'
import sys

import tensorflow
import tf_slim


def build():
    with tensorflow.Graph().as_default():
        images = tensorflow.compat.v1.placeholder(tensorflow.float32, (1, 8, 8, 3))
        return tf_slim.batch_norm(images).shape.as_list()


try:
    build()
except ModuleNotFoundError as error:
    message = str(error)
else:
    message = "none"
print("tf_slim.batch_norm:", message)
assert message == "No module named 'tf_keras.legacy_tf_layers'"

from tf_keras.src.legacy_tf_layers import normalization

sys.modules["tf_keras.legacy_tf_layers.normalization"] = normalization
assert build() == [1, 8, 8, 3]
PYTHON
