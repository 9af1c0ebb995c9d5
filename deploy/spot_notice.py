"""Watches for the notice that a spot machine is about to be taken away, and then has Ray drain this machine.

Ray gives a draining node no new tasks and actors; what runs goes on to the machine's end, two minutes after the
notice on AWS, half a minute on Google Cloud. Started on every worker by cluster.yaml, after `ray start`. Needs nothing
but Python and Ray: code of captionkit is not on machines when they start.

    python spot_notice.py --cloud aws
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone

METADATA = {"aws": "http://169.254.169.254", "google": "http://metadata.google.internal"}
TIMEOUT = 2.0
GOOGLE_SECONDS = 30.0
"""From the notice to the end of a machine of Google Cloud."""
TRIES = 5


def aws_notice(base: str) -> float | None:
    """Seconds until EC2 takes this machine away, None if it has not said so.

    By instance metadata version 2, which gives answers for a token alone.

    Raises:
        OSError: the metadata service does not answer.
    """
    token = _ask(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        said = _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as err:
        if err.code == 404:  # there is no notice
            return None
        raise
    notice = json.loads(said)
    end = datetime.fromisoformat(notice["time"].replace("Z", "+00:00"))
    return max(0.0, (end - datetime.now(timezone.utc)).total_seconds())


def google_notice(base: str) -> float | None:
    """The same of Google Cloud.

    Raises:
        OSError: the metadata service does not answer.
    """
    said = _ask(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GOOGLE_SECONDS if said.strip().upper() == "TRUE" else None


NOTICES = {"aws": aws_notice, "google": google_notice}


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # Not through a proxy, whatever the environment says: this address is the machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=TIMEOUT) as answer:
        return str(answer.read().decode())


def drain(seconds: float, address: str | None, node: str | None) -> bool:
    """Have Ray drain this node (or `node`, by its hexadecimal id); whether Ray has accepted that."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the spot machine is taken away"]
    command += ["--deadline-remaining-seconds", str(int(seconds))]
    command += ["--address", address] if address else []
    command += ["--node-id", node] if node else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"ray drain-node: {(done.stderr or done.stdout).strip()[-500:]}", flush=True)
    return done.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloud", choices=sorted(METADATA), default="aws")
    parser.add_argument("--metadata", help="address of the metadata service, where it is not the cloud's usual one")
    parser.add_argument("--seconds", type=float, default=5.0, help="between two looks")
    parser.add_argument("--address", help="of Ray's head; default: the Ray that runs on this machine")
    parser.add_argument("--node-id", help="of the node to drain; default: this machine's")
    options = parser.parse_args(arguments)
    base = (options.metadata or METADATA[options.cloud]).rstrip("/")
    while True:
        try:
            seconds = NOTICES[options.cloud](base)
        except (OSError, ValueError, KeyError, TypeError) as err:
            print(f"{base}: {type(err).__name__}: {err}", flush=True)  # it may answer next time
            seconds = None
        if seconds is not None:
            break
        time.sleep(options.seconds)
    print(f"this machine is taken away in {seconds:.0f} s: draining it", flush=True)
    end = time.monotonic() + seconds
    for _ in range(TRIES):
        if drain(max(0.0, end - time.monotonic()), options.address, options.node_id):
            return 0
        time.sleep(1.0)
    return 1


if __name__ == "__main__":
    sys.exit(main())
