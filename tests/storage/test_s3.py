"""S3, against a real server."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from captionkit.errors import UsageError
from captionkit.inputs.listing import Inputs
from captionkit.inputs.options import InputOptions
from captionkit.storage import AddressError, Storage, StorageError, StorageOptions
from captionkit.storage import s3 as s3_module
from tests.support.servers import S3Server

STORAGE = Storage()

ODD_KEYS = [
    "plain.jpg",
    "with space.jpg",
    "number #1.jpg",
    "why?.jpg",
    "why?versions=2.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a+b&c=d;e,f:g@h!$'().jpg",
    "star*[x].jpg",
    "unicode é 猫 🐈.jpg",
    "empty//folder.jpg",
    "dots/../up.jpg",
    "back\\slash.jpg",
    'tilde~^`|{}<>".jpg',
    "double::colon.jpg",
]


def kinds(action: Any) -> tuple[str, bool]:
    with pytest.raises(StorageError) as caught:
        action()
    assert "None" not in str(caught.value)
    assert "testsecret" not in str(caught.value)
    return caught.value.kind, caught.value.fatal


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_round_trips(bucket: str, s3: S3Server, key: str) -> None:
    uri = f"s3://{bucket}/photos/{key}"
    STORAGE.write(uri, key.encode())
    stored = s3.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in stored] == [f"photos/{key}"]
    assert STORAGE.read(uri) == key.encode()
    listed = list(STORAGE.list(f"s3://{bucket}/photos"))
    assert listed == [STORAGE.stat(uri)]
    assert listed[0].uri == uri
    assert (listed[0].size, listed[0].version) == (len(key.encode()), stored[0]["ETag"].strip('"'))
    with STORAGE.open(uri) as file:
        assert file.read(2) == key.encode()[:2]
        assert file.seek(0) == 0
        assert file.read() == key.encode()
    STORAGE.delete(uri)
    STORAGE.delete(uri)
    assert not STORAGE.exists(uri)


@pytest.fixture
def filled(bucket: str, s3: S3Server) -> str:
    for key in ("a.jpg", "p/b.jpg", "p/q/c.png", "p/.hidden/d.jpg", ".e.jpg", "pq/f.jpg", "2023-1/g.jpg"):
        STORAGE.write(f"s3://{bucket}/{key}", key.encode())
    s3.client().put_object(Bucket=bucket, Key="marker/")  # what a web console makes of an empty folder
    return bucket


def keys(found: Any, bucket: str) -> list[str]:
    return sorted(entry.uri.removeprefix(f"s3://{bucket}/") for entry in found)


def test_listing(filled: str) -> None:
    base = f"s3://{filled}"
    assert keys(STORAGE.list(base), filled) == ["2023-1/g.jpg", "a.jpg", "p/b.jpg", "p/q/c.png", "pq/f.jpg"]
    assert keys(STORAGE.list(f"{base}/"), filled) == keys(STORAGE.list(base), filled)
    assert keys(STORAGE.list(f"{base}/p"), filled) == ["p/b.jpg", "p/q/c.png"]
    assert keys(STORAGE.list(f"{base}/p/"), filled) == ["p/b.jpg", "p/q/c.png"]
    assert keys(STORAGE.list(f"{base}/p/.hidden"), filled) == ["p/.hidden/d.jpg"]
    assert keys(STORAGE.list(f"{base}/a.jpg"), filled) == ["a.jpg"]
    for missing in ("nowhere", "a.jp", "a.jpg/", "*.jpg"):
        assert kinds(lambda missing=missing: list(STORAGE.list(f"{base}/{missing}"))) == ("not_found", False)
    assert STORAGE.is_folder(f"{base}/p")
    assert STORAGE.is_folder(base)
    assert not STORAGE.is_folder(f"{base}/a.jpg")


def test_an_empty_bucket_lists_empty(bucket: str) -> None:
    assert list(STORAGE.list(f"s3://{bucket}")) == []


def test_glob(filled: str) -> None:
    base = f"s3://{filled}"
    assert keys(STORAGE.glob(f"{base}/*.jpg"), filled) == ["a.jpg"]
    assert keys(STORAGE.glob(f"{base}/**/*.jpg"), filled) == ["2023-1/g.jpg", "a.jpg", "p/b.jpg", "pq/f.jpg"]
    assert keys(STORAGE.glob(f"{base}/p*/*"), filled) == ["p/b.jpg", "pq/f.jpg"]
    assert keys(STORAGE.glob(f"{base}/20??-[0-9]/**"), filled) == ["2023-1/g.jpg"]
    assert keys(STORAGE.glob(f"{base}/zz*"), filled) == []
    with pytest.raises(UsageError):
        list(STORAGE.glob("s3://buck*/x"))


def test_a_bucket_is_a_folder_with_and_without_a_slash(bucket: str) -> None:
    STORAGE.write(f"s3://{bucket}/a.jpg", b"a")
    for address in (f"s3://{bucket}", f"s3://{bucket}/"):
        assert not STORAGE.exists(address)
        assert STORAGE.is_folder(address)
        found = Inputs(InputOptions((address,)), STORAGE).items()
        assert [item.uri for item in found] == [f"s3://{bucket}/a.jpg"]
        with pytest.raises(AddressError, match="names a bucket, not an object"):
            STORAGE.write(address, b"")


def test_listing_goes_page_by_page(bucket: str) -> None:
    for number in range(25):
        STORAGE.write(f"s3://{bucket}/{number:05d}.jpg", b"")
    pages = []
    fs = _backend_of(STORAGE)._plain
    call = fs.call_s3

    def counted(method: str, **kwargs: Any) -> Any:
        pages.append(kwargs)
        return call(method, MaxKeys=10, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "call_s3", counted)
        listing = STORAGE.list(f"s3://{bucket}")
        next(listing)
        assert len(pages) == 1  # the second page is not fetched before it is needed
        assert sum(1 for _ in listing) == 24
    assert len(pages) == 3


def test_a_large_listing_takes_no_more_memory_than_a_small_one(bucket: str) -> None:
    names = [f"{n // 1000:05d}/{n % 1000:05d}.jpg" for n in range(60_000)]

    def page(method: str, **kwargs: Any) -> Any:
        behind, count = kwargs.get("ContinuationToken") or kwargs.get("StartAfter", ""), kwargs.get("MaxKeys", 1000)
        first = bisect_right(names, behind)
        items = [{"Key": key, "Size": 7, "ETag": '"e"'} for key in names[first : first + count]]
        return {
            "Contents": items,
            "IsTruncated": first + count < len(names),
            "NextContinuationToken": items[-1]["Key"] if items else "",
        }

    peaks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend_of(STORAGE)._plain, "call_s3", page)
        patch.setattr(s3_module, "PART_PAGES", 1)  # else it takes more keys until all threads hold what they will
        tracemalloc.start()
        for count, _ in enumerate(STORAGE.list(f"s3://{bucket}"), 1):
            if count % 5_000 == 0:
                peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(peaks) == 12
    assert peaks[-1] - peaks[5] < 3_000_000  # of 60 pages, some 300 kB each


def _backend_of(storage: Storage) -> Any:
    from captionkit.storage.store import _backend

    return _backend("s3", storage.options)


def test_a_read_is_one_request(bucket: str) -> None:
    STORAGE.write(f"s3://{bucket}/a", b"a")
    requests = []
    backend = _backend_of(STORAGE)
    call = backend._plain._call_s3

    async def counted(method: str, *args: Any, **kwargs: Any) -> Any:
        requests.append(method)
        return await call(method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend._plain, "_call_s3", counted)
        STORAGE.read(f"s3://{bucket}/a")
        assert requests == ["get_object"]
        requests.clear()
        put = backend._plain.call_s3

        def counted_put(method: str, *args: Any, **kwargs: Any) -> Any:
            requests.append(method)
            return put(method, *args, **kwargs)

        patch.setattr(backend._plain, "call_s3", counted_put)
        STORAGE.write(f"s3://{bucket}/b", b"x" * 6_000_000)
        assert requests == ["put_object"]


def test_what_is_missing(bucket: str) -> None:
    for missing in (lambda: STORAGE.read(f"s3://{bucket}/x"), lambda: STORAGE.stat(f"s3://{bucket}/x")):
        assert kinds(missing) == ("not_found", False)
    nowhere = "s3://captionkit-no-such-bucket"
    for missing in (
        lambda: STORAGE.read(f"{nowhere}/x"),
        lambda: STORAGE.stat(f"{nowhere}/x"),
        lambda: STORAGE.exists(f"{nowhere}/x"),
        lambda: list(STORAGE.list(nowhere)),
        lambda: STORAGE.write(f"{nowhere}/x", b""),
    ):
        assert kinds(missing) == ("not_found", True)
    with pytest.raises(StorageError, match=r"no such bucket.*AWS_ENDPOINT_URL"):
        STORAGE.read(f"{nowhere}/x")
    assert kinds(lambda: STORAGE.read("s3://Not_A_Bucket!/x")) == ("not_found", False)


def test_wrong_keys(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not s3.checks_keys:
        pytest.skip("moto takes any credentials")
    STORAGE.write(f"s3://{bucket}/x", b"x")
    every = (
        lambda: STORAGE.read(f"s3://{bucket}/x"),
        lambda: STORAGE.stat(f"s3://{bucket}/x"),
        lambda: list(STORAGE.list(f"s3://{bucket}")),
        lambda: STORAGE.write(f"s3://{bucket}/x", b""),
    )
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert [kinds(action) for action in every] == [("permission", True)] * 4
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "wrong")
        assert [kinds(action) for action in every] == [("permission", True)] * 4
    anonymous = Storage(StorageOptions(anonymous=True))
    assert kinds(lambda: anonymous.read(f"s3://{bucket}/x")) == ("permission", False)
    assert STORAGE.read(f"s3://{bucket}/x") == b"x"  # and with the right ones again


def test_no_keys(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no credentials found; set AWS_ACCESS_KEY_ID") as caught:
        STORAGE.read(f"s3://{bucket}/x")
    assert (caught.value.kind, caught.value.fatal) == ("permission", True)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    storage = Storage(StorageOptions(endpoint_url="http://127.0.0.1:1", retries=0))
    assert kinds(lambda: storage.read("s3://bucket/x")) == ("unreachable", True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(UsageError, match="http://"):
        STORAGE.read("s3://bucket/x")


def test_options_reach_the_server(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in s3.env():
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        f"[profile lab]\naws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\n"
        f"endpoint_url = {s3.endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    lab = Storage(StorageOptions(profile="lab", region="us-east-1", path_style=True))
    lab.write(f"s3://{bucket}/x", b"x")
    with pytest.raises(UsageError, match="nobody"):
        Storage(StorageOptions(profile="nobody")).read(f"s3://{bucket}/x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    named = Storage(StorageOptions(endpoint_url=s3.endpoint))
    assert named.read(f"s3://{bucket}/x") == b"x"
    assert named.read(f"s3a://{bucket}/x") == b"x"
    assert next(iter(named.list(f"s3a://{bucket}"))).uri == f"s3a://{bucket}/x"


def test_addresses_that_cannot_work() -> None:
    for address in ("s3://", "s3:///key", "s3://bucket", "s3://bucket/"):
        with pytest.raises(UsageError):
            STORAGE.read(address)
    with pytest.raises(UsageError) as caught:
        STORAGE.read("s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG@bucket/key")
    assert "wJalr" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_members_over_the_network(bucket: str) -> None:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(50):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 10_000
            archive.addfile(info, BytesIO(bytes([number]) * 10_000))
    STORAGE.write(f"s3://{bucket}/shard.tar", buffer.getvalue())
    assert STORAGE.read(f"s3://{bucket}/shard.tar#30.jpg") == bytes([30]) * 10_000
    buffer = BytesIO()
    pq.write_table(pa.table({"image": [b"zero", b"one"]}), buffer)
    STORAGE.write(f"s3://{bucket}/rows.parquet", buffer.getvalue())
    assert STORAGE.read(f"s3://{bucket}/rows.parquet#1") == b"one"
    assert kinds(lambda: STORAGE.read(f"s3://{bucket}/none.tar#a")) == ("not_found", False)


def test_stat_many(bucket: str) -> None:
    for number in range(0, 60, 2):
        STORAGE.write(f"s3://{bucket}/{number}", bytes(number))
    asked = [f"s3://{bucket}/{number}" for number in range(60)]
    pulled = []

    def stream() -> Any:
        for uri in asked:
            pulled.append(uri)
            yield uri

    answers = STORAGE.stat_many(stream(), concurrency=4)
    first = next(answers)
    assert len(pulled) < 30  # only a bounded number is asked ahead
    found = [first, *answers]
    assert [entry.uri for entry in found] == asked
    assert [entry.size for entry in found] == [n if n % 2 == 0 else None for n in range(60)]
    assert all(bool(entry.version) == (entry.size is not None) for entry in found)
    assert kinds(lambda: list(STORAGE.stat_many(["s3://captionkit-no-such-bucket/x"]))) == ("not_found", True)


def test_a_pickled_storage_works_in_another_process(bucket: str) -> None:
    STORAGE.write(f"s3://{bucket}/x", b"there")
    data = pickle.dumps(STORAGE)  # after use: nothing of the connection goes along
    assert len(data) < 1000
    code = f"import pickle; print(pickle.loads({data!r}).read('s3://{bucket}/x'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "b'there'\n"


def test_a_forked_child_makes_its_own_connections(bucket: str) -> None:
    code = f"""
import os
from captionkit.storage import Storage
storage = Storage()
storage.write('s3://{bucket}/x', b'x')
child = os.fork()
data = storage.read('s3://{bucket}/x')
if child == 0:
    os._exit(0 if data == b'x' else 1)
print(data, os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "b'x' 0\n", done.stderr


def test_arrows_file_system_works_in_another_process_after_an_error(bucket: str) -> None:
    """As Ray Train sends it to its workers: by then a server has said that something is not there."""
    path, files = STORAGE.arrow(f"s3://{bucket}/run")
    with pytest.raises(FileNotFoundError):
        files.open_input_stream(f"{path}/none")
    sent = cloudpickle.dumps(files)
    assert len(sent) < 10_000
    with pickle.loads(sent).open_output_stream(f"{path}/a") as file:
        file.write(b"a")
    assert STORAGE.read(f"s3://{bucket}/run/a") == b"a"


def test_many_threads(bucket: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: STORAGE.write(f"s3://{bucket}/{n}", str(n).encode()), range(100)))
        read = list(pool.map(lambda n: Storage().read(f"s3://{bucket}/{n}"), range(100)))
    assert read == [str(n).encode() for n in range(100)]


def test_a_file_written_bit_by_bit_appears_whole(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 * 2**20)  # the least that S3 allows
    for size in (10, 12 * 2**20):
        uri = f"s3://{bucket}/{size}.bin"
        with STORAGE.create(uri) as file:
            for start in range(0, size, 2**20):
                file.write(bytes([start >> 20]) * min(2**20, size - start))
            assert not STORAGE.exists(uri)
        assert STORAGE.stat(uri).size == size
        assert STORAGE.read(uri)[-1] == (size - 1) >> 20
    with pytest.raises(ZeroDivisionError), STORAGE.create(f"s3://{bucket}/never.bin") as file:
        file.write(bytes(1 // 0))
    assert not STORAGE.exists(f"s3://{bucket}/never.bin")
