"""What of an address or a message may be seen: no passwords, no signatures, no keys."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_plus

# `user:password@` and `token@` before a host. A slash in an unquoted password is taken as part of it: rather
# too much of an address hidden in a message than too little of a secret.
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/@:]*:[^\s@]*@|[^\s/@]+@)(?:[^\s/@]*@)*")
_PARAMETERS = re.compile(
    r"""(?ix)
    ( (?: (?<![a-z0-9])
          (?: x-amz-(?:signature|credential|security-token) | x-goog-(?:signature|credential)
            | awsaccesskeyid | (?:aws_)?(?:secret_access_key|access_key_id|session_token)
            | (?:access|auth|refresh)_?token | api_?key | token | signature | sig | secret | password
            | passwd | authorization )
          ["']? \s* [=:]
        | [?&] key = )
      \s* ["']? (?: (?:bearer|basic) \s+ )?
    )
    [^\s&;,"'<>#)]+ """
)
_ACCESS_KEY_IDS = re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b")

_ADDRESS = re.compile(r"([a-z][a-z0-9+.\-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(.*)", re.IGNORECASE | re.DOTALL)
# `container@account` and `user@host` say where, and are no secrets there.
_NAMED = ("abfs", "abfss", "adl", "wasb", "wasbs", "sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs")

# Parameters that give leave to read an object and say nothing of which …
_LEAVE = re.compile(
    r"""(?ix)
    x-(?:amz|goog)-(?:algorithm|credential|date|expires|signedheaders|signature|security-token)
    | awsaccesskeyid | googleaccessid | signature | sig | (?:access|auth|refresh|session|security|id)[-_]?token
    | secret | password | passwd | pwd | authorization | auth | api[-_]?key | hdnts | hdnea
    """
)
# … their terms, which are other things where nothing is signed …
_TERMS = re.compile(
    r"expires|policy|key-pair-id|x-id|s[vsrptei]|srt|sip|spr|ses|sdd|sdr|skoid|sktid|sk[tesv]|saoid|suoid|scid"
)
# … and those which may say which object as well: a key to a map, or an object's; a token of leave, or of a share.
_EITHER = frozenset(["key", "token"])
_HASHED = re.compile("~[0-9a-f]{12}")


def redact(text: str) -> str:
    """The same text without passwords, signatures, tokens and keys."""
    text = _USER_INFO.sub("***@", text)
    text = _PARAMETERS.sub(r"\1***", text)
    return _ACCESS_KEY_IDS.sub("***", text)


def public_uri(uri: str) -> str:
    """An address as it may be stored and shown: without credentials, and the same for the same object.

    Passwords and tokens before a host go, and of a web address's query what only gives leave to read (signatures with
    their dates and terms), so that an address signed again tomorrow is the same one. Of what may be either, `key=` and
    `token=`, a hash stays: two objects never become one. All else stays as it is spelled. An address that loses
    something cannot be read any more.
    """
    if "@" not in uri and uri[:4].lower() != "http":
        return uri  # as nearly all of a long listing are
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        return uri
    scheme, host, path, query, rest = match.groups(default="")
    # A password with a slash in it, unquoted, ends the host too early.
    if ":" in host and "@" not in host and "@" in path and not host.rpartition(":")[2].isdecimal():
        secret, _, path = path.rpartition("@")
        host, slash, path = path.partition("/")
        path = slash + path
        host = f"{secret}@{host}"
    user, at, host = host.rpartition("@")
    if at and scheme.lower() in _NAMED:
        name = user.partition(":")[0]
        host = f"{name}@{host}" if name else host
    if scheme.lower() in ("http", "https") and query:
        query = _without_leave(query[1:])
    return f"{scheme}://{host}{path}{query}{rest}"


def _without_leave(query: str) -> str:
    parts = [(unquote_plus(part.partition("=")[0]).lower(), part) for part in query.split("&")]
    signed = any(_LEAVE.fullmatch(name) for name, _ in parts)
    kept = []
    for name, part in parts:
        spelled, _, value = part.partition("=")
        if name in _EITHER and not _HASHED.fullmatch(value):
            kept.append(f"{spelled}=~{hashlib.sha256(value.encode()).hexdigest()[:12]}")
        elif not (_LEAVE.fullmatch(name) or (signed and _TERMS.fullmatch(name))):
            kept.append(part)
    return "?" + "&".join(kept) if kept else ""
