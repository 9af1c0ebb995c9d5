"""How usable the page of a large table is, measured in a browser: until the first picture, and until a search's rows.

    python benchmarks/browsing.py --rows 100000

Makes a table of that many rows of a few drawn pictures (each row a file of its own, linked), serves it as
`captionkit gallery --serve` does, and opens it in a headless Chromium (which it needs), in a window of 1400 × 900. Of a
search the time is told from a key's stroke to the frame after its rows stand in the page, waiting for further keys
(0.06 s) included. Each figure is a median of `--rounds`, and the largest beside it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tyro
from _report import Row, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from captionkit.inputs.ids import image_id
from captionkit.scenes import draw_folder
from captionkit.schema import SCHEMA
from captionkit.storage import Storage
from captionkit.table.table import Footer, to_parquet
from tests.support.browser import Browser, chromium
from tests.support.table_rows import rows as make_rows

FILE_ROWS = 500_000
SEARCH = """new Promise((done) => {{
  const field = document.querySelector('[name={name}]');
  const count = document.getElementById('count');
  const begun = performance.now();
  const seen = new MutationObserver(() => {{
    seen.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
  }});
  seen.observe(count, {{ childList: true }});
  field.value = {value!r};
  field.dispatchEvent(new Event('input', {{ bubbles: true }}));
}})"""
FIRST = """new Promise((done) => {
  const look = () => {
    const image = document.querySelector('#frames img');
    if (image && image.complete && image.naturalWidth) done(performance.now());
    else requestAnimationFrame(look);
  };
  look();
})"""
SEARCHES = {
    "a word": ("words", ["kite", "desert", "balloon", "purple"]),
    "a part of an address": ("words", ["/0042", "99.jpg", "/0007", "12.jpg"]),
    "no match": ("words", ["zebra", "xylophone", "quartz", "jukebox"]),
    "--where": ("where", ["score < -2.5", "length(caption) > 60", "caption like '%cat%'", "score > -0.2"]),
    "another order": ("order", ["lowest", "random", "longest", "highest"]),
}


@dataclass(frozen=True)
class Options:
    rows: int = 100_000
    """Rows of the table."""
    pictures: int = 200
    """Different pictures."""
    rounds: int = 5
    """Times that the page is opened, and each search made with each of its words."""
    json: str | None = None
    """Also write the table to this file."""


def make_table(folder: Path, options: Options) -> Path:
    """A table of linked pictures, and captions that each say something else."""
    for _ in draw_folder(str(folder / "drawn"), options.pictures, 1):
        pass
    drawn = sorted((folder / "drawn").glob("*.jpg"))
    random = np.random.default_rng(1)
    nouns = ["kite", "cat", "balloon", "tree", "boat", "duck", "car", "flower"]
    colours = ["red", "purple", "white", "small green", "large blue"]
    places = ["in the desert", "on the beach at sunset", "in a meadow by day", "at sea under the moon"]
    for start in range(0, options.rows, FILE_ROWS):
        uris, captions = [], []
        for number in range(start, min(start + FILE_ROWS, options.rows)):
            path = folder / "images" / f"{number // 1000:04}" / f"{number:08}.jpg"
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            os.link(drawn[number % len(drawn)], path)
            uris.append(str(path))
            first, second = random.choice(nouns, 2)
            captions.append(f"a {random.choice(colours)} {first} and a {second} {random.choice(places)} no. {number}")
        one = make_rows(uris[:1]).select(SCHEMA.names)
        many = one.take(pa.array(np.zeros(len(uris), np.int64)))
        columns = {
            "uri": uris,
            "caption": captions,
            "image_id": [image_id(uri, "v1") for uri in uris],
            "score": pa.array(-random.gamma(2, 0.5, len(uris)), pa.float32()),
        }
        for name, values in columns.items():
            at = SCHEMA.get_field_index(name)
            many = many.set_column(at, SCHEMA.field(at), pa.array(values, SCHEMA.field(at).type))
        uri = str(folder / "captions" / f"captions-r-{start:09}.parquet")
        Storage().write(uri, to_parquet(many, Footer("ck-0", {}, {})))
    return folder / "captions"


def measure(browser: Browser, address: str, options: Options) -> list[Row]:
    """The figures, in milliseconds."""

    def told(what: str, times: list[float]) -> Row:
        return {"what": what, "median, ms": statistics.median(times), "largest, ms": max(times), "times": len(times)}

    def opened() -> float:
        browser.open("about:blank")
        browser.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        time.sleep(0.5)
        browser.open(address)
        return float(browser.evaluate(FIRST))

    found = [told("first picture, from opening the address", [opened() for _ in range(options.rounds)])]
    for what, (name, values) in SEARCHES.items():
        times: list[float] = []
        for _ in range(options.rounds):
            times += [float(browser.evaluate(SEARCH.format(name=name, value=value))) for value in values]
            browser.evaluate(SEARCH.format(name=name, value="table" if name == "order" else ""))
        found.append(told(f"search: {what}", times))
    return found


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(Path(folder), options)
        command = [sys.executable, "-m", "captionkit", "gallery", str(table), "--serve"]
        begun = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, chromium() as browser:
            try:
                assert server.stdout is not None
                address = server.stdout.readline().strip()
                started = 1000 * (time.monotonic() - begun)
                browser.size(1400, 900)
                found = measure(browser, address, options)
                peak = _peak(server.pid)
            finally:
                server.terminate()
    start: Row = {
        "what": "the command, until it prints its address",
        "median, ms": started,
        "largest, ms": started,
        "times": 1,
    }
    report([start, *found], options.json)
    print(f"{options.rows:,} rows; largest memory of the server {peak / 2**20:,.0f} MiB, mapped files included")


def _peak(pid: int) -> int:
    """The largest resident memory of a process, in bytes."""
    [line] = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(tyro.cli(Options))
