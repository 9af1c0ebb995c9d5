"""Errors: their kinds, what they say, and what they must never say."""

from __future__ import annotations

import errno
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionkit.storage import STORAGE_ERROR_KINDS, StorageError, redact
from captionkit.storage.errors import explain_os_error, failure

SECRETS = st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/+=%.-_~$!*", min_size=8).map(
    lambda text: "Zq" + text
)  # begins with what no template holds

TEMPLATES = [
    "cannot read https://ann:{}@host.example/a.jpg: 404",
    "s3://AKIAIOSFODNN7EXAMPLE:{}@bucket/key",
    "https://{}@github.example/a.jpg",
    "ftp://:{}@host/a",
    "https://b.s3.amazonaws.com/a.jpg?X-Amz-Expires=60&X-Amz-Signature={}&x=1",
    "https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential={}",
    "https://b.s3.amazonaws.com/a.jpg?X-Amz-Security-Token={}",
    "https://b.s3.amazonaws.com/a.jpg?AWSAccessKeyId=x&Signature={}&Expires=1",
    "https://account.blob.core.windows.net/c/a.jpg?sv=2024&sig={}",
    "https://storage.googleapis.com/b/a.jpg?X-Goog-Signature={}",
    "https://maps.example/a?key={}",
    "https://host/a?access_token={}#x",
    "aws_secret_access_key = {}",
    "AWS_SECRET_ACCESS_KEY={} AWS_REGION=x",
    "{{'secret': '{}', 'anon': False}}",
    '{{"password": "{}"}}',
    "Authorization: Bearer {}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@given(secret=SECRETS)
def test_no_secret_is_left(template: str, secret: str) -> None:
    if "?" in template and "://" in template:
        secret = secret.replace("/", "%2F")  # in a query it is quoted
    if template.startswith(("https://{}", "https://ann", "ftp")):
        secret = secret.replace("/", "%2F")
    said = redact(template.format(secret))
    assert secret not in said
    assert "***" in said


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/2024/a photo @ noon (1).jpg",
        "s3://bucket/key/signatures/page=3/token.jpg",
        "http://localhost:9000/bucket/cat.jpg?size=3&page=7",
        "/home/ann/pictures/secret santa/a.jpg",
        "the specified key does not exist: photos/a.jpg",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_access_key_ids_are_hidden_anywhere() -> None:
    assert redact("no such key AKIAIOSFODNN7EXAMPLE.") == "no such key ***."


def test_errors_survive_pickling() -> None:
    error = failure("permission", "s3://b/a", "access denied", "ask", fatal=True)
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, again.fatal, str(again)) == ("permission", True, "s3://b/a: access denied; ask")
    again.args = (f"{again.args[0]}\nwhat Ray Data has to say about it",)
    assert vars(pickle.loads(pickle.dumps(again))) == vars(error)


def test_kinds_are_a_closed_set() -> None:
    with pytest.raises(ValueError, match="unknown"):
        StorageError("strange", "x")
    assert "write_error" not in STORAGE_ERROR_KINDS  # only for writing, never the reason of a table row


@pytest.mark.parametrize(
    ("error", "kind", "fatal"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), "not_found", False),
        (PermissionError(), "permission", False),
        (PermissionError("None"), "permission", False),
        (TimeoutError(), "timeout", False),
        (OSError(errno.ENOSPC, "No space left on device"), "write_error", True),
        (OSError(errno.EIO, "Input/output error"), "read_error", False),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "not_found", False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "unreachable", False),
        (ValueError("embedded null byte"), "not_found", False),
        (RuntimeError("odd\nthings"), "read_error", False),
    ],
)
def test_exceptions_become_kinds(error: Exception, kind: str, fatal: bool) -> None:
    found = explain_os_error(error, "/data/a.jpg")
    assert (found.kind, found.fatal) == (kind, fatal)
    assert str(found).startswith("/data/a.jpg: ")
    assert "\n" not in str(found)
    assert "None" not in str(found)
