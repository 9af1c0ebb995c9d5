"""`convert`: from a bundle to files of other programs."""

from __future__ import annotations

from collections.abc import Callable

from captionkit.convert.onnx_files import TOLERANCE, difference, to_onnx
from captionkit.convert.options import ConvertOptions
from captionkit.convert.tutorial import to_tutorial
from captionkit.errors import UsageError
from captionkit.model.captioner import Captioner
from captionkit.storage import Storage


def convert(options: ConvertOptions, log: Callable[[str], None]) -> None:
    """Write a bundle in another form, and say what was written and how well it agrees.

    Raises:
        BundleError: the bundle cannot be loaded; UsageError: it cannot be written in this form.
        StorageError: the folder cannot be written.
    """
    storage = Storage(options.storage)
    captioner = Captioner.load(options.bundle, device="cpu", dtype="float32", engine=None, storage=storage)
    notes: list[str] = []
    if options.to == "onnx":
        files = to_onnx(captioner)
        worst = difference(captioner, files)
        if worst > TOLERANCE:
            raise UsageError(
                f"ONNX Runtime's log-probabilities differ from PyTorch's by up to {worst:.2g}: nothing is written. "
                "Other versions of torch, onnxscript or onnxruntime may do"
            )
        notes.append(f"ONNX Runtime and PyTorch agree: log-probabilities differ by at most {worst:.1g}")
    else:
        files, notes = to_tutorial(captioner)
    folder = storage.normalize(options.output)
    for name, data in files.items():
        storage.write(storage.join(folder, name), data)
        log(f"{name}: {len(data):,} bytes")
    for note in notes:
        log(f"note: {note}")
