"""No secret in what is said or stored: addresses, errors, causes, representations."""

from __future__ import annotations

import logging
import re
import string
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from captionkit.errors import UsageError
from captionkit.storage import Storage, StorageError, StorageOptions, public_uri, redact
from tests.support.servers import free_port

# Recognisable, and long enough not to stand anywhere by chance.
SECRETS = st.text(string.ascii_letters + string.digits + "/+=-_.~", min_size=10, max_size=30).map(lambda s: f"Zq9{s}")
QUICK = StorageOptions(retries=0, timeout_seconds=2.0)

SIGNED = [
    "https://b.s3.example/p/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date=20260101T000000Z"
    "&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token={}&X-Amz-Signature={}",
    "https://b.s3.example/p/a.jpg?AWSAccessKeyId={}&Signature={}&Expires=1760000000",
    "https://acc.blob.core.example/c/a.jpg?sv=2024-05-04&st=2026&se=2027&sr=b&sp=r&sig={}",
    "https://storage.googleapis.example/b/a.jpg?X-Goog-Algorithm=x&X-Goog-Credential={}&X-Goog-Signature={}",
    "https://d1.cloudfront.example/a.jpg?Expires=1&Signature={}&Key-Pair-Id=K2",
    "https://host.example/a.jpg?w=100&access_token={}",
    "https://host.example/a.jpg?api_key={}&w=100",
    "https://ann:{}@host.example/a.jpg?w=100",
    "https://{}@host.example/a.jpg",
    "https://host.example/a.jpg?token={}",
    "https://host.example/map?key={}&x=1",
    "s3://AKIAIOSFODNN7EXAMPLE:{}@bucket/p/a.jpg",
    "sftp://ann:{}@host.example/a.jpg",
]


def filled(template: str, secret: str) -> str:
    return template.replace("{}", quote(secret, safe=""))


def hidden(secret: str, text: str) -> bool:
    return secret not in text and quote(secret, safe="") not in text and "AKIA" not in text


@pytest.mark.parametrize("template", SIGNED)
@settings(max_examples=30, deadline=None)
@given(secret=SECRETS)
def test_stored_and_shown_addresses_hold_no_secret(template: str, secret: str) -> None:
    uri = filled(template, secret)
    assert hidden(secret, public_uri(uri))
    assert hidden(secret, redact(uri))
    assert public_uri(public_uri(uri)) == public_uri(uri)
    assert public_uri(f"{uri}#a/b.jpg").endswith("#a/b.jpg")


@pytest.mark.parametrize("template", SIGNED)
@settings(max_examples=20, deadline=None)
@given(first=SECRETS, second=SECRETS)
def test_the_same_object_signed_twice_is_one_address(template: str, first: str, second: str) -> None:
    same = public_uri(filled(template, first)) == public_uri(filled(template, second))
    either = "?token=" in template or "?key=" in template  # may say which object: then it is another one
    assert same == (not either or first == second)


def test_public_addresses_are_what_they_should_be() -> None:
    assert public_uri(filled(SIGNED[0], "x")) == "https://b.s3.example/p/a.jpg"
    assert public_uri(filled(SIGNED[2], "x")) == "https://acc.blob.core.example/c/a.jpg"
    assert public_uri(filled(SIGNED[4], "x")) == "https://d1.cloudfront.example/a.jpg"
    assert public_uri(filled(SIGNED[6], "x")) == "https://host.example/a.jpg?w=100"
    assert public_uri("https://ann:a/b@host.example/a.jpg") == "https://host.example/a.jpg"
    assert public_uri("sftp://ann:hunter2@host/a.jpg") == "sftp://ann@host/a.jpg"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/why?versions=2&sig=x.jpg",  # a key may hold anything
        "s3://bucket/ann@home/a:b.jpg",
        "/data/a?token=x.jpg",
        "abfss://container@account.dfs.core.example/a.jpg",
        "https://host.example/a.jpg?sv=1&sp=2&expires=soon&w=100",  # terms of nothing
        "https://host.example:8443/a@b.jpg?w=100#top",
        "https://host.example/a.jpg?",
        "gs://bucket/a.tar#b/c.jpg",
    ],
)
def test_addresses_without_secrets_stay_as_they_are(uri: str) -> None:
    assert public_uri(uri).removesuffix("?") == uri.removesuffix("?")


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_different_addresses_stay_different(first: str, second: str) -> None:
    if first != second and "@" not in first + second:
        assert public_uri(f"s3://b/{first}") != public_uri(f"s3://b/{second}")
        assert public_uri(f"/data/{first}") != public_uri(f"/data/{second}")


def said_by(action: Any) -> str:
    """All that an error says, with its whole traceback, as Ray prints it."""
    with pytest.raises((StorageError, UsageError)) as caught:
        action()
    error = caught.value
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SECRETS)
@example(secret="Zq9hunter2hunter2")
def test_no_error_tells_a_secret(secret: str, web: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    quoted = quote(secret, safe="")
    host = web[1].removeprefix("http://")
    storage = Storage(QUICK)
    closed = f"127.0.0.1:{free_port()}"
    for place in (host, closed, "no-such-host.invalid", "[::1"):
        for uri in (
            f"http://ann:{quoted}@{place}/status/404",
            f"http://ann:{quoted}@{place}/status/503?x=1",
            f"http://{place}/status/403?X-Amz-Signature={quoted}",
            f"http://{place}/none.jpg?a=1&sig={quoted}&token={quoted}",
        ):
            for action in (storage.read, storage.stat, storage.open, lambda uri: storage.write(uri, b"")):
                assert hidden(secret, said_by(lambda uri=uri, action=action: action(uri)))
    for uri in (f"s3://AKIAIOSFODNN7EXAMPLE:{quoted}@bucket/key", f"gopher://ann:{quoted}@host/a"):
        assert hidden(secret, said_by(lambda uri=uri: storage.read(uri)))
    assert hidden(secret, said_by(lambda: StorageOptions(endpoint_url=f"https://ann:{quoted}@minio.example")))
    assert hidden(secret, said_by(lambda: storage.open(f"http://ann:{quoted}@{host}/a.tar#x")))
    only = Storage(StorageOptions(schemes=("s3",)))
    assert hidden(secret, said_by(lambda: only.read(f"https://ann:{quoted}@host/a?sig={quoted}")))
    assert hidden(secret, caplog.text)


def test_keys_of_the_environment_are_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "Zq9secretsecret")
    storage = Storage(StorageOptions(endpoint_url="https://minio.example", profile=None))
    assert "Zq9secret" not in repr(storage) + repr(storage.options) + str(storage.options.to_json())
    assert re.search(r"minio\.example", repr(storage))
