"""The commands, the modules they live in, and their lines of help."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command: its module, where a function of its name takes the arguments, and its line of help."""

    module: str
    help: str


COMMANDS = {
    "adopt": Command("adopt", "Make a bundle of a captioner that you have already: of its weights and vocabulary."),
    "attention": Command("pages", "Draw where a captioner looked for each word of a caption."),
    "caption": Command("jobs", "Caption images into a Parquet table, one row per image."),
    "check": Command(
        "tables",
        "Prove a caption table: every input has its row, none has two, every file can be read, one model made it.",
    ),
    "compact": Command("tables", "Put small table files together into large ones, without ever losing a row."),
    "convert": Command("convert", "Write a captioner as other programs read it: ONNX, the PyTorch tutorial's files."),
    "demo": Command(
        "jobs",
        "Draw scenes, caption them with the embedded captioner, make a page: the whole pipeline on one machine.",
    ),
    "evaluate": Command("jobs", "Score a captioner, or a caption table, against people's captions of the same images."),
    "export": Command(
        "exports", "Write captions in the form in which another tool reads them: CSV, XMP, shards, COCO …"
    ),
    "failures": Command("tables", "Group what failed, with reasons, places and examples."),
    "gallery": Command("pages", "Show a caption table as a page: one HTML file with images, captions and failures."),
    "plan": Command("tables", "Say how long an archive will take and what it will cost, before anything is spent."),
    "review": Command("reviewing", "Look through captions on a local page; approve, edit or reject them by keyboard."),
    "recipe": Command("recipes", "List the recipes of `captionkit train --recipe`, or print one, to copy and edit."),
    "scenes": Command("pages", "Draw scenes into a folder, as many as you like."),
    "show": Command("show", "Print and draw images with the captions of greedy search and of beams beside each other."),
    "status": Command("tables", "Say how far a caption job is, from anywhere: what its run record tells."),
    "train": Command("jobs", "Train a captioner on a corpus of captioned images."),
    "undo": Command("exports", "Put files back that `captionkit export --in-place` has changed."),
}
