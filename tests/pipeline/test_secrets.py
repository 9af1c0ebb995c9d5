"""Passwords and signatures in addresses: what they open is captioned, and they themselves are nowhere to be found."""

from __future__ import annotations

import base64
import io
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.cli import BROKEN, OK, main
from captionkit.inputs.ids import image_id
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.pipeline.manifest import Manifest, make_manifest, read_unit
from captionkit.storage import Storage
from captionkit.table.check import check
from captionkit.table.table import CaptionTable
from tests.support.archive import tar_bytes

STORAGE = Storage()
MARK = "Zq9Zq9Zq9"  # begins every secret; long, since an encrypted manifest says any three letters now and then


@dataclass
class Guarded:
    """A web server that opens `/private` by a password, and `/signed` to GETs with a signature that it has given."""

    folder: Path
    port: int = 0
    password: str = field(default_factory=lambda: f"{MARK}{secrets.token_hex(12)}")
    signatures: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def private(self, path: str) -> str:
        return f"http://ann:{self.password}@{self.host}/private/{path}"

    def signed(self, path: str, fine: bool = True) -> str:
        """Another address for the same file each time; as S3's presigned ones are spelled, slash and all."""
        signature = f"{MARK}{secrets.token_hex(12)}"
        if fine:
            self.signatures.append(signature)
        terms = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA{MARK}EXAMPLE%2F20260101/s3/{signature}"
        return f"http://{self.host}/signed/{path}?{terms}&X-Amz-Expires=60&X-Amz-Signature={signature}"

    def shown(self, path: str) -> str:
        return f"http://{self.host}/{path}"

    @property
    def secrets(self) -> list[str]:
        basic = base64.b64encode(f"ann:{self.password}".encode()).decode()
        return [MARK, self.password, basic, "X-Amz"]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    found = Guarded(tmp_path / "web")

    class Guard(SimpleHTTPRequestHandler):
        def allowed(self) -> bool:
            asked = urlsplit(self.path)
            if asked.path.startswith("/private/"):
                basic = base64.b64encode(f"ann:{found.password}".encode()).decode()
                return self.headers.get("Authorization") == f"Basic {basic}"
            signature = parse_qs(asked.query).get("X-Amz-Signature", [""])[0]
            return self.command == "GET" and signature in found.signatures

        def do_GET(self) -> None:
            if not self.allowed():
                self.send_error(401 if self.path.startswith("/private/") else 403)
                return
            self.path = urlsplit(self.path).path
            super().do_HEAD() if self.command == "HEAD" else super().do_GET()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Guard(*args, directory=str(found.folder))) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def fill(guarded: Guarded, pictures: list[bytes]) -> None:
    """Private pictures with a list of them; signed ones, and a shard."""
    for place, names in (("private", ["a.jpg", "b.jpg"]), ("signed", ["c.jpg", "d.jpg"])):
        (guarded.folder / place).mkdir(parents=True)
        for number, name in enumerate(names):
            (guarded.folder / place / name).write_bytes(pictures[number])
    (guarded.folder / "private" / "list.txt").write_text("a.jpg\nb.jpg\ngone.jpg\n")
    (guarded.folder / "signed" / "s.tar").write_bytes(tar_bytes([("1.jpg", pictures[4]), ("2.jpg", pictures[5])]))


def everything_under(folder: Path) -> str:
    """All that can be read there: files as they are, and tables, footers and manifests unpacked."""
    found = io.StringIO()
    for file in folder.rglob("*"):
        found.write(f"{file}\n")
        if file.is_file():
            found.write(file.read_bytes().decode("latin-1"))
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            found.write(json.dumps(table.to_pylist(), default=str) + repr(table.schema.metadata))
        elif file.suffix == ".arrow":
            try:
                found.write(repr(pa.ipc.open_file(file).read_all().to_pylist()))
            except pa.ArrowInvalid:
                found.write("(encrypted)")
    return found.getvalue()


def hidden(guarded: Guarded, text: str) -> bool:
    return not [secret for secret in guarded.secrets if secret in text]


def plan(tmp_path: Path, *inputs: str, **options: Any) -> Manifest:
    made = Inputs(InputOptions(input=inputs, **options), STORAGE)
    return make_manifest(made, CaptionTable(str(tmp_path / "out"), STORAGE), str(tmp_path / "out" / "_runs" / "m"))


def test_the_manifest_is_encrypted_and_its_units_know_where_to_read(
    guarded: Guarded, pictures: list[bytes], tmp_path: Path
) -> None:
    fill(guarded, pictures)
    manifest = plan(tmp_path, guarded.private("list.txt"), shard := guarded.signed("s.tar"))
    assert "(encrypted)" in everything_under(tmp_path / "out")
    assert hidden(guarded, everything_under(tmp_path / "out") + repr(manifest))
    rows = [row for unit in manifest.units for row in read_unit(unit, STORAGE).to_pylist()]
    assert {row["uri"]: row["read_uri"] for row in rows} == {
        guarded.shown("private/a.jpg"): guarded.private("a.jpg"),
        guarded.shown("private/b.jpg"): guarded.private("b.jpg"),
        guarded.shown("private/gone.jpg"): guarded.private("gone.jpg"),
        guarded.shown("signed/s.tar"): shard,
    }
    versions = {row["uri"][-5:]: row["version"] for row in rows if row["kind"] == "image"}
    assert versions["a.jpg"]
    assert not versions["e.jpg"]  # gone.jpg
    for row in rows:
        assert row["kind"] == "tar" or row["image_id"] == image_id(row["uri"], row["version"])


def test_a_manifest_without_secrets_can_be_read_by_anybody(pictures: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(pictures[0])
    plan(tmp_path, str(tmp_path / "a.jpg"))
    assert f"'uri': '{tmp_path}/a.jpg'" in everything_under(tmp_path / "out")


def test_one_image_signed_twice_is_one_row(guarded: Guarded, pictures: list[bytes], tmp_path: Path) -> None:
    fill(guarded, pictures)
    manifest = plan(tmp_path, guarded.signed("c.jpg"), guarded.signed("c.jpg"), guarded.private("a.jpg"))
    assert (manifest.images, manifest.duplicates) == (2, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_on_secret_addresses(
    guarded: Guarded,
    pictures: list[bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(guarded, pictures)
    output, listing = tmp_path / "out", tmp_path / "signed.csv"

    def caption(*args: str, fine: bool = True) -> int:
        addresses = [guarded.signed("c.jpg"), guarded.signed("d.jpg", fine), guarded.signed("s.tar")]
        listing.write_text("url,n\n" + "".join(f'"{uri}",{n}\n' for n, uri in enumerate(addresses)))
        inputs = [guarded.private("list.txt"), str(listing)]
        return main(
            ["caption", "--input", *inputs, "--output", str(output), "--uri-column", "url", "--carry", "url",
             "--max-failed", "0.5", "--beam", "1", *args]
        )  # fmt: skip

    assert caption("--page", str(tmp_path / "page.html"), fine=False) == OK
    rows = {row["uri"]: row for row in pq.read_table(output).to_pylist()}
    assert {uri: row["error_kind"] for uri, row in rows.items()} == {
        guarded.shown("private/a.jpg"): None,
        guarded.shown("private/b.jpg"): None,
        guarded.shown("private/gone.jpg"): "not_found",
        guarded.shown("signed/c.jpg"): None,
        guarded.shown("signed/d.jpg"): "permission",
        guarded.shown("signed/s.tar#1.jpg"): None,
        guarded.shown("signed/s.tar#2.jpg"): None,
    }
    assert rows[guarded.shown("signed/c.jpg")]["url"] == guarded.shown("signed/c.jpg")
    for row in rows.values():
        assert row["error"] is None or row["error"].startswith(row["uri"])

    # Signed anew, nothing is to be done but what had failed.
    assert caption("--retry-failed") == OK
    again = {row["uri"]: row for row in pq.read_table(output).to_pylist()}
    assert again.keys() == rows.keys()
    assert [uri for uri, row in again.items() if row["status"] == "failed"] == [guarded.shown("private/gone.jpg")]
    assert {uri for uri in rows if again[uri]["run_id"] != rows[uri]["run_id"]} == {
        guarded.shown("private/gone.jpg"),
        guarded.shown("signed/d.jpg"),
    }

    # The record has no password; whoever checks has it in ~/.netrc.
    report = check(str(output), STORAGE)
    assert "401" in report.text()
    assert "of web addresses, ~/.netrc may" in report.text()
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login ann password {guarded.password}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    found = check(str(output), STORAGE)
    assert found.ok, found.text()

    assert main(["failures", str(output)]) == OK
    assert main(["status", str(output), "--all", "--json"]) == OK
    guarded.signatures.clear()
    wrong = guarded.private("list.txt").replace(guarded.password, f"{MARK}wrong")
    assert main(["caption", "--input", wrong, "--output", str(tmp_path / "other")]) == BROKEN
    said = capfd.readouterr()
    assert "401" in said.err
    assert hidden(guarded, said.out + said.err + report.text() + found.text())
    assert hidden(guarded, everything_under(output) + (tmp_path / "page.html").read_text())
