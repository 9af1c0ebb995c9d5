"""What a caption job can be told. These dataclasses are the command line, the config file and the run record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from captionkit.config import as_tuple
from captionkit.inputs.options import InputOptions
from captionkit.model.search.options import SearchOptions
from captionkit.storage.options import StorageOptions

WAIT_HOURS = 12.0
"""A night: machines that are scarce in the evening may come in the small hours. Ray Data alone waits half an hour."""


@dataclass(frozen=True)
class OutputOptions:
    """The caption table."""

    output: str
    """The folder of the caption table. A rerun on the same folder captions what is missing or changed."""
    mixed: bool = False
    """Allow a table whose rows come from several models or search options (each row names its model)."""
    recaption_where: str | None = None
    """Also caption anew, by this --model and search, those rows that meet a condition and that others made: `"score <
    -1.2"`, as in SQL's WHERE, or `all`. Each old caption stays until its new one takes its place, and for good where
    the new captioner fails on the image."""
    retry_failed: bool = False
    """Also caption anew the images whose rows have failed."""
    max_failed: float = 0.05
    """The largest share of failed rows (0 to 1) with which the job still succeeds. Past it the exit code is 3; the
    table stands all the same."""
    page: str | None = None
    """Also write an HTML contact sheet of the table to this address."""
    share: str | None = None
    """Caption only this share of the inputs, as in 3/16: the third of sixteen, by a hash of each address (of a shard or
    Parquet file, its own). Jobs with other shares of the same COUNT may fill the table at the same time, on other
    clusters too."""
    until: str | None = None
    """End at this time of the machine that runs the job (`07:00`: when it comes next; or `2026-12-24T07:00`), with exit
    code 4 and all that is captioned by then written. The same command goes on."""
    when_finished: str | None = None
    """Whom to tell how the run has ended: a program with its arguments, which finds the run record as JSON on its
    standard input (no shell runs it), or an http(s) address, which gets it by POST. Stands in no record."""
    flush_minutes: float = 5.0
    """Write a table file at least this often, so that a lost driver loses no more work than this."""
    flush_rows: int = 500_000
    """Write a table file whenever this many rows are there."""


@dataclass(frozen=True)
class ModelOptions:
    """The captioner."""

    model: tuple[str, ...] = ()
    """Address of a captioner bundle. Several, of one vocabulary, decode together: --model A --model B. Default: the
    embedded one, which knows drawn scenes and no photographs."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 where the chip has it (the log says why), float32
    elsewhere; float16 is for GPUs alone."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What computes the encoder. `openvino` is for CPUs, needs `pip install 'captionkit[openvino]'` and takes seconds
    to start; `auto` is OpenVINO where it is installed and the images are many enough, else `torch`."""
    batch_size: int | None = None
    """Images that a captioner actor takes at once. Default: 256 on a GPU, 64 on a CPU."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_tuple(self.model))  # one can be given alone

    def images_at_once(self, gpu: bool) -> int:
        """The batch size, given or default."""
        return self.batch_size or (256 if gpu else 64)


@dataclass(frozen=True)
class WordOptions:
    """Words that captions may not or must hold."""

    banned: tuple[str, ...] = ("<unk>",)
    """Words that no caption may hold; `<unk>` stands for every word that the captioner does not know, and is allowed
    where this list leaves it out."""
    prefix: str = ""
    """Words with which each caption begins."""
    say_before: str = ""
    """A text to stand before every caption, as in "Archive photo: ". The captioner does not see it, so any words will
    do."""


@dataclass(frozen=True)
class ClusterOptions:
    """Ray."""

    actors: str = "1:8"
    """Captioner actors, MIN:MAX (or one number). On CPUs the pool never takes the last one, and MIN counts only as far
    as CPUs are there when the job starts."""
    gpus_per_actor: float | None = None
    """GPUs of one actor; 0.5 puts two on one GPU. Default: 1 where the cluster has a GPU now, else 0: give it when
    GPU nodes come only once they are asked for."""
    address: str | None = None
    """Ray cluster to join, `auto` for one running on this machine. Default: the one named by RAY_ADDRESS (as in
    `ray job submit`), else a Ray of its own for this run."""
    wait_for_machines: float = WAIT_HOURS
    """Hours without any progress after which the job gives up: a spot machine that does not come, say. Meanwhile the
    log says what is awaited."""
    fetch_threads: int = 16
    """Concurrent reads of each fetch task."""
    progress_seconds: float = 30.0
    """Seconds between two lines of progress in a log (a terminal shows a bar instead)."""

    def actor_range(self) -> tuple[int, int]:
        low, _, high = self.actors.partition(":")
        return int(low), int(high or low)


@dataclass(frozen=True)
class CaptionOptions:
    """Caption images into a Parquet table, one row per image."""

    inputs: tyro.conf.OmitArgPrefixes[InputOptions]
    table: tyro.conf.OmitArgPrefixes[OutputOptions]
    captioner: tyro.conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    search: tyro.conf.OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    words: tyro.conf.OmitArgPrefixes[WordOptions] = field(default_factory=WordOptions)
    storage: tyro.conf.OmitArgPrefixes[StorageOptions] = field(default_factory=StorageOptions)
    cluster: tyro.conf.OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    config: str | None = None
    """Address of a YAML or JSON file of options, named as here (`beam: 5`); those given here come first. A run
    record is such a file: it repeats its run."""
    dry_run: bool = False
    """Check the options, then say what `captionkit plan` says of these inputs and this captioner; write nothing."""
