"""The model card: the README of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown that tells what the captioner is, what it was trained on, how good it is and how to use it."""
    figures = "\n".join(f"| {stage} | {cider:.1f} | {epochs:g} |" for stage, cider, epochs in facts["stages"])
    teacher = f"\n- Distilled from a teacher: {facts['teacher']}" if facts["teacher"] else ""
    hint = f", beam=20, consensus={facts['neighbours']}" if facts["neighbours"] else ""
    return f"""# {facts["decoder"]} on {facts["encoder"]}

An image captioner trained with captionkit {facts["version"]}.

- Encoder: {facts["encoder"]}, {facts["feature_shape"]} features, images of {facts["size"]} × {facts["size"]}
- Decoder: {facts["decoder"]}, {facts["parameters"]:,} parameters, {facts["words"]:,} words
- Trained on {facts["train_images"]:,} images with {facts["train_captions"]:,} captions from {facts["corpus"]}{teacher}

| stage | best dev CIDEr-D × 100 | epochs |
|---|---|---|
{figures}

Dev captions by beam {facts["beam"]}, over this vocabulary's own words; `jobs/evaluate.py` gives figures to compare with
papers. It reproduces what its training captions describe and how they describe it, with their mistakes and biases;
review its captions before you publish them.

    from captionkit import Captioner
    Captioner.load("THIS FOLDER").caption(["photo.jpg"]{hint})

Training options:

```json
{json.dumps(facts["options"], indent=1)}
```
"""
