"""What a run does for people who sleep: it ends by itself at a time, and tells somebody how it ended."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from captionkit.errors import UsageError
from captionkit.progress import log_line

COMMAND_SECONDS, POST_SECONDS, POST_TRIES = 300.0, 30.0, 3


def next_time(text: str, now: datetime) -> datetime:
    """The moment that `--until` means: a time of day that comes next, or a date with a time.

    Args:
        now: The present, with its time zone, which is that of `text` where it names none.

    Raises:
        UsageError: it is neither, or lies in the past.
    """
    try:
        of_day = time_of_day.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"--until {text}: expected a time as in 07:00, or 2026-12-24T07:00") from None
        moment = moment.replace(tzinfo=moment.tzinfo or now.tzinfo)
        if moment <= now:
            raise UsageError(f"--until {text}: that is past; it is {now:%Y-%m-%dT%H:%M}") from None
        return moment
    moment = datetime.combine(now.date(), of_day, of_day.tzinfo or now.tzinfo)
    return moment if moment > now else moment + timedelta(days=1)


def check_notice(target: str) -> None:
    """Refuse what `--when-finished` could not do in the morning.

    Raises:
        UsageError: it is neither an address on the web nor a program of this machine.
    """
    if _is_address(target):
        if not urlsplit(target).hostname:
            raise UsageError(f"--when-finished {target}: an address without a host")
        return
    try:
        words = shlex.split(target)
    except ValueError as err:
        raise UsageError(f"--when-finished {target}: {err}") from err
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"--when-finished {target}: there is no such program. Expected a program with its arguments (no shell runs "
            "it), or an address on the web that takes a POST"
        )


def give_notice(target: str, record: dict[str, Any], record_uri: str) -> None:
    """Send a run's record to an address on the web, or to a program's standard input, as JSON.

    The program also finds CAPTIONKIT_STATUS and CAPTIONKIT_RECORD (the record's address) in its environment. What goes
    wrong here is told, and changes nothing about the run.
    """
    data = json.dumps(record | {"record": record_uri}).encode()
    try:
        if _is_address(target):
            _post(target, data)
        else:
            environment = {**os.environ, "CAPTIONKIT_STATUS": record["status"], "CAPTIONKIT_RECORD": record_uri}
            done = subprocess.run(
                shlex.split(target), input=data, env=environment, timeout=COMMAND_SECONDS, check=False
            )
            if done.returncode:
                log_line(f"--when-finished: {shlex.split(target)[0]} ended with exit code {done.returncode}")
    except (OSError, ValueError, subprocess.SubprocessError) as err:
        # Neither the address nor the command: they may hold a secret.
        log_line(
            f"--when-finished: {type(err).__name__}: {getattr(err, 'reason', None) or 'it did not answer in time'}"
        )


def _is_address(target: str) -> bool:
    return target.startswith(("http://", "https://"))


class _NoRedirect(HTTPRedirectHandler):
    """urllib would follow with a GET, and lose the record."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(address: str, data: bytes) -> None:
    request = Request(address, data, {"Content-Type": "application/json"})
    for tries_left in reversed(range(POST_TRIES)):
        try:
            build_opener(_NoRedirect).open(request, timeout=POST_SECONDS).close()
            return
        except HTTPError as err:
            if err.code < 500 or not tries_left:
                raise
        except OSError:
            if not tries_left:
                raise
        time.sleep(2.0)
