"""Bad days: every fault of network and server, between captionkit and a real S3 server, and over plain HTTP."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from captionkit.storage import Storage, StorageError, StorageOptions, retry_counts, retrying
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.servers import S3Server

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="module")
def running(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy without faults before the S3 server, and pauses short enough for tests."""
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retrying, "LONGEST_PAUSE_S", 0.1)
    running.clear()
    yield running
    running.clear()


def through(proxy: FaultProxy, **options: Any) -> Storage:
    return Storage(StorageOptions(endpoint_url=proxy.endpoint, **{"timeout_seconds": 20.0, **options}))


def refusal(action: Any) -> StorageError:
    with pytest.raises(StorageError) as caught:
        action()
    assert "testsecret" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def shared(s3: S3Server) -> str:
    """A bucket with 20 small objects in a folder, and a larger one. Leave it as it is."""
    bucket = s3.make_bucket()
    for number in range(20):
        s3.client().put_object(Bucket=bucket, Key=f"p/{number:02d}.bin", Body=DATA[: 1 + number])
    s3.client().put_object(Bucket=bucket, Key="big.bin", Body=DATA)
    return bucket


@pytest.fixture
def filled(proxy: FaultProxy, shared: str) -> tuple[Storage, str]:
    """A storage that talks through the proxy, and the address of that bucket."""
    return through(proxy), f"s3://{shared}"


def everything(storage: Storage, base: str) -> None:
    """Every operation, and that it does what it should."""
    assert storage.read(f"{base}/big.bin") == DATA
    with storage.open(f"{base}/big.bin") as file:
        assert file.read(100) == DATA[:100]
        assert file.seek(-100, 2) == len(DATA) - 100
        assert file.read() == DATA[-100:]
    assert storage.stat(f"{base}/big.bin").size == len(DATA)
    assert len(list(storage.list(f"{base}/p"))) == 20
    storage.write(f"{base}/new", b"new")
    assert storage.read(f"{base}/new") == b"new"
    storage.delete(f"{base}/new")
    assert not storage.exists(f"{base}/new")


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ({"kind": "status", "status": 503, "code": "SlowDown"}, "slow_down"),
        ({"kind": "status", "status": 429}, "slow_down"),
        ({"kind": "status", "status": 500, "code": "InternalError"}, "server_error"),
        ({"kind": "status", "status": 502}, "server_error"),
        ({"kind": "status", "status": 400, "code": "RequestTimeout"}, "timeout"),
        ({"kind": "reset"}, "broken"),
        ({"kind": "truncate"}, None),  # an answer without a body is whole
        ({"kind": "latency", "seconds": 0.05}, None),
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()) if isinstance(fault, dict) else "",
)
def test_every_operation_outlives_passing_faults(
    filled: tuple[Storage, str], proxy: FaultProxy, fault: dict[str, Any], counted: str | None
) -> None:
    before = retry_counts()
    proxy.fault(**fault, probability=0.4)
    everything(*filled)
    assert proxy.faulted > 0
    if counted:
        after = retry_counts()
        changed = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
        # A HEAD that is refused says no more than its status.
        assert counted in changed
        assert sum(changed.values()) >= 1


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_broken_read_goes_on_where_it_broke(filled: tuple[Storage, str], proxy: FaultProxy, kind: Any) -> None:
    storage, base = filled
    proxy.fault(kind, "GET .*big.bin", after=300_000, times=3)
    assert storage.read(f"{base}/big.bin") == DATA
    asked = [int(found[1]) for line in proxy.requests if (found := re.search(r"bytes=(\d+)-", line))]
    assert len(asked) == 3
    assert asked == sorted(asked)
    assert 100_000 < asked[0] <= 300_000  # what came is kept, but for what was on its way
    proxy.clear()
    proxy.fault(kind, "GET .*big.bin", after=300_000, times=3)
    with storage.open(f"{base}/big.bin") as file:
        assert b"".join(iter(lambda: file.read(100_001), b"")) == DATA


def test_a_read_that_gets_on_is_not_given_up(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    _, base = filled
    storage = through(proxy, retries=2)
    proxy.fault("truncate", "GET .*big.bin", after=200_000)  # every time
    assert storage.read(f"{base}/big.bin") == DATA
    assert len(proxy.requests) > 4


def test_a_cut_body_is_never_taken_for_a_whole_one(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    _, base = filled
    storage = through(proxy, retries=1)
    proxy.fault("truncate", "GET .*big.bin", after=1000)
    error = refusal(lambda: storage.read(f"{base}/big.bin"))
    assert (error.kind, error.fault, error.fatal) == ("read_error", "broken", False)
    assert "2 tries" in str(error)
    with pytest.raises(StorageError), storage.open(f"{base}/big.bin") as file:
        file.read()


def test_an_object_that_changes_between_parts_is_not_mixed(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    other = DATA[::-1] + b"longer"
    proxy.fault("truncate", "GET .*big.bin", after=300_000, times=1)
    with pytest.MonkeyPatch.context() as patch:
        # Written anew while the reader waits to go on.
        patch.setattr(retrying.time, "sleep", lambda _: Storage().write(f"{base}/big.bin", other))
        assert storage.read(f"{base}/big.bin") == other
    with storage.open(f"{base}/big.bin") as file:
        Storage().write(f"{base}/big.bin", DATA)
        error = refusal(file.read)
    assert (error.kind, error.fault) == ("read_error", "")
    assert "changed" in str(error)


def test_no_answer_is_a_timeout_and_tried_again(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    _, base = filled
    storage = through(proxy, timeout_seconds=0.5, retries=2)
    proxy.fault("stall", "GET", times=1)
    assert storage.read(f"{base}/big.bin") == DATA
    proxy.fault("stall", "GET .*/p/")
    error = refusal(lambda: storage.read(f"{base}/p/01.bin"))
    assert (error.kind, error.fault, error.fatal) == ("timeout", "timeout", False)


def test_slow_answers_come_through_and_hardly_any_do_not(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    proxy.fault("trickle", "GET .*big.bin", after=100_000, seconds=0.02)
    assert storage.read(f"{base}/big.bin") == DATA
    proxy.clear()
    proxy.fault("trickle", "GET .*big.bin", after=10, seconds=0.05)
    error = refusal(lambda: through(proxy, timeout_seconds=0.5, retries=1).read(f"{base}/big.bin"))
    assert error.kind == "timeout"


def test_the_server_says_how_long_to_wait(
    filled: tuple[Storage, str], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, base = filled
    slept = []
    monkeypatch.setattr(retrying.time, "sleep", slept.append)
    proxy.fault("status", status=503, code="SlowDown", headers={"Retry-After": "7"}, times=2)
    assert storage.read(f"{base}/p/01.bin") == DATA[:2]
    assert [round(pause) for pause in slept] == [7, 7]
    proxy.fault("status", status=503, code="SlowDown", headers={"Retry-After": "3600"})
    error = refusal(lambda: storage.read(f"{base}/p/01.bin"))  # more than our patience: at once
    assert error.fault == "slow_down"
    assert len(slept) == 2


def test_a_server_that_is_down_for_a_while(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    proxy.down()
    back = threading.Timer(1.0, proxy.up)
    back.start()
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda number: storage.read(f"{base}/p/{number % 20:02d}.bin"), range(100)))
    back.join()
    assert read == [DATA[: 1 + number % 20] for number in range(100)]
    assert retry_counts()["unreachable"] >= 16


def test_a_server_that_stays_down_is_one_clear_error(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    _, base = filled
    storage = through(proxy, retry_seconds=0.5)
    proxy.down()
    try:
        errors = []
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(storage.read, f"{base}/p/{number:02d}.bin") for number in range(20)]:
                errors.append(refusal(future.result))
    finally:
        proxy.up()
    assert {(error.kind, error.fatal) for error in errors} == {("unreachable", True)}
    assert "check the endpoint" in str(errors[0])


def test_one_object_that_always_fails_is_no_reason_to_stop(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    _, base = filled
    storage = through(proxy, retries=3)
    proxy.fault("status", "GET .*/p/05", status=500, code="InternalError")
    error = refusal(lambda: storage.read(f"{base}/p/05.bin"))
    assert (error.kind, error.fault, error.fatal) == ("read_error", "server_error", False)
    proxy.fault("status", status=500, code="InternalError")
    error = refusal(lambda: storage.read(f"{base}/p/06.bin"))
    assert (error.kind, error.fatal) == ("read_error", True)


def test_a_burst_of_slow_downs_loses_nothing(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    proxy.fault("status", status=503, code="SlowDown", probability=0.7)
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda number: storage.read(f"{base}/p/{number % 20:02d}.bin"), range(100)))
    assert read == [DATA[: 1 + number % 20] for number in range(100)]


def test_answers_that_are_not_of_s3(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    proxy.fault("status", "GET .*list-type", status=200, code="</Error><html>", times=1)  # a gateway's page, say
    assert len(list(storage.list(f"{base}/p"))) == 20
    assert proxy.faulted == 1


@pytest.mark.parametrize(
    ("status", "code", "kind", "fatal"),
    [
        (400, "ExpiredToken", "permission", True),
        (403, "InvalidAccessKeyId", "permission", True),
        (403, "SignatureDoesNotMatch", "permission", True),
        (403, "RequestTimeTooSkewed", "permission", True),
        (404, "NoSuchBucket", "not_found", True),
        (404, "NoSuchKey", "not_found", False),
        (403, "InvalidObjectState", "read_error", False),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    filled: tuple[Storage, str], proxy: FaultProxy, status: int, code: str, kind: str, fatal: bool
) -> None:
    storage, base = filled
    proxy.fault("status", status=status, code=code)
    error = refusal(lambda: storage.read(f"{base}/p/01.bin"))
    assert (error.kind, error.fatal, error.fault) == (kind, fatal, "")
    assert len(proxy.requests) == 1


def test_a_full_storage(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    proxy.fault("status", "PUT", status=507, code="InsufficientStorage")
    error = refusal(lambda: storage.write(f"{base}/new", b"x"))
    assert (error.kind, error.fatal) == ("write_error", True)
    assert "full" in str(error)


def test_a_large_object_is_written_in_parts_each_tried_again(
    filled: tuple[Storage, str], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    monkeypatch.setattr("captionkit.storage.s3.PART", 5 << 20)
    storage, base = filled
    data = DATA * 12
    proxy.fault("status", "PUT .*partNumber=2", status=503, code="SlowDown", times=2)
    proxy.fault("reset", "POST .*uploadId", times=1)  # done, but nobody hears of it
    storage.write(f"{base}/large", data)
    assert storage.read(f"{base}/large") == data
    assert sum("partNumber=2" in line for line in proxy.requests) == 3
    assert sum("partNumber=1" in line for line in proxy.requests) == 1
    proxy.fault("status", "PUT .*partNumber=3", status=403, code="AccessDenied")
    assert refusal(lambda: storage.write(f"{base}/other", data)).fatal
    left = s3.client().list_multipart_uploads(Bucket=base.removeprefix("s3://"))
    assert not left.get("Uploads")
    assert not storage.exists(f"{base}/other")


def test_checking_for_writing(filled: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, base = filled
    storage.check_writable(f"{base}/out")
    assert not storage.is_folder(f"{base}/out")
    proxy.fault("status", "PUT", status=403, code="AccessDenied")
    error = refusal(lambda: storage.check_writable(f"{base}/out"))
    assert (error.kind, error.fatal) == ("permission", True)
    assert re.search(r"cannot write: s3://.*/out/_probe-\w+: access denied .*may write", str(error))
    proxy.clear()
    assert refusal(lambda: storage.check_writable("s3://captionkit-no-such-bucket/out")).kind == "not_found"


def deny(s3: S3Server, bucket: str, keys: str) -> None:
    policy = {"Version": "2012-10-17", "Statement": []}
    for key in keys.split():
        policy["Statement"].append(  # type: ignore[attr-defined]
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{bucket}/{key}",
            }
        )
    s3.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def test_one_object_denied_or_all_of_them(proxy: FaultProxy, s3: S3Server, bucket: str) -> None:
    if not s3.checks_keys:
        pytest.skip("moto heeds no policies")
    base = f"s3://{bucket}"
    for key in ("p/03.bin", "p/04.bin", "a.bin"):
        s3.client().put_object(Bucket=bucket, Key=key, Body=b"x")
    deny(s3, bucket, "p/03.bin")
    storage = through(proxy, retries=1)  # nothing is known of the bucket yet
    error = refusal(lambda: storage.read(f"{base}/p/03.bin"))
    assert (error.kind, error.fatal) == ("permission", False)
    proxy.clear()
    refusal(lambda: storage.read(f"{base}/p/03.bin"))
    assert len(proxy.requests) == 1  # asked once, not each time
    deny(s3, bucket, "*")
    again = through(proxy, retries=2)
    error = refusal(lambda: again.read(f"{base}/p/03.bin"))
    assert (error.kind, error.fatal) == ("permission", True)
    assert "every other" in str(error)


def test_hosts_that_do_not_exist() -> None:
    start = time.monotonic()
    error = refusal(lambda: Storage(StorageOptions(endpoint_url="http://no-such-host.invalid")).read("s3://b/x"))
    assert (error.kind, error.fatal) == ("unreachable", True)
    assert "no host of this name" in str(error)
    assert time.monotonic() - start < 60  # at once, not after all our patience


@pytest.fixture
def signed(filled: tuple[Storage, str], proxy: FaultProxy, s3: S3Server) -> tuple[Storage, str]:
    """A web address, signed, of an object of 1 MiB, through the proxy."""
    from tests.support.servers import _client

    client = _client(proxy.endpoint, s3.key, s3.secret)
    where = {"Bucket": filled[1].removeprefix("s3://"), "Key": "big.bin"}
    return Storage(StorageOptions(timeout_seconds=20.0)), client.generate_presigned_url("get_object", Params=where)


def test_web_addresses_outlive_faults_too(signed: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, uri = signed
    assert storage.read(uri) == DATA  # so that the host is a known one
    proxy.fault("status", status=503, probability=0.3)
    proxy.fault("status", status=500, probability=0.3)
    proxy.fault("truncate", "GET", after=300_000, probability=0.5)
    for _ in range(3):
        assert storage.read(uri) == DATA
        assert storage.stat(uri).size == len(DATA)
        with storage.open(uri) as file:
            assert file.seek(500_000) == 500_000
            assert file.read() == DATA[500_000:]


def test_a_broken_web_read_goes_on_where_it_broke(signed: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, uri = signed
    proxy.fault("reset", "GET", after=300_000, times=2)
    assert storage.read(uri) == DATA
    assert len(proxy.requests) == 3
    assert all("bytes=" in line for line in proxy.requests[1:])


def test_a_web_server_that_is_down_for_a_while(signed: tuple[Storage, str], proxy: FaultProxy) -> None:
    storage, uri = signed
    assert storage.read(uri) == DATA
    proxy.down()
    back = threading.Timer(1.0, proxy.up)
    back.start()
    assert storage.read(uri) == DATA
    back.join()


def test_a_web_address_that_fails_is_never_hopeless(signed: tuple[Storage, str], proxy: FaultProxy) -> None:
    _, uri = signed
    storage = Storage(StorageOptions(retries=1, timeout_seconds=0.5))
    proxy.fault("stall", "GET", times=2)
    error = refusal(lambda: storage.read(uri))
    assert (error.kind, error.fatal) == ("timeout", False)
    proxy.fault("truncate", "GET", after=1000)
    error = refusal(lambda: storage.read(uri))
    assert (error.kind, error.fault, error.fatal) == ("read_error", "broken", False)
    signature = re.search(r"Signature=([^&]+)", uri)
    assert signature
    assert signature[1] not in str(error)


def test_a_server_without_ranges_is_read_from_the_start_again(
    web: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)
    folder, address = web
    (folder / "big.bin").write_bytes(DATA)
    with fault_proxy(address) as proxy:
        storage = Storage(StorageOptions(timeout_seconds=20.0))
        proxy.fault("truncate", "GET", after=300_000, times=2)
        assert storage.read(f"{proxy.endpoint}/big.bin") == DATA
        proxy.fault("truncate", "GET", after=300_000, times=2)
        with storage.open(f"{proxy.endpoint}/big.bin") as file:
            assert b"".join(iter(lambda: file.read(100_001), b"")) == DATA
            assert proxy.faulted == 4
