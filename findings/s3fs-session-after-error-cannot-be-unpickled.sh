#!/usr/bin/env bash
# An S3FileSystem with a session of one's own, sent to another process after the server has answered with an error.
#
# s3fs 2026.9.0 takes `session=` (aiobotocore 3.10.0) for a profile, or for its own loaders, and pickles it along with the
# file system; cloudpickle 3.1.2, which Ray, Dask and Spark use, can do that. But with the first error that a server
# answers, botocore 1.43.117 keeps the client's `exceptions` in the session, and these cannot come back: their __getattr__
# asks for an attribute that unpickling has not yet set, and RecursionError is all that the receiver says. A 404 to a
# look for a file that may not be there is enough, so a job works where nothing was asked before, and fails elsewhere.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q s3fs==2026.9.0 aiobotocore==3.10.0 botocore==1.43.117 cloudpickle==3.1.2
cd "$home"
"$home/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import cloudpickle
from aiobotocore.session import AioSession
from s3fs import S3FileSystem


class NothingThere(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), NothingThere)
threading.Thread(target=server.serve_forever, daemon=True).start()
files = S3FileSystem(
    key="a",
    secret="b",
    endpoint_url=f"http://127.0.0.1:{server.server_port}",
    client_kwargs={"region_name": "us-east-1"},
    session=AioSession(),
    skip_instance_cache=True,
)


def travel():
    try:
        cloudpickle.loads(cloudpickle.dumps(files))
    except RecursionError as error:
        return f"RecursionError: {error}"
    return "comes back"


before = travel()
try:
    files.call_s3("get_object", Bucket="bucket", Key="none")
except FileNotFoundError:
    pass
after = travel()
print(f"before the first error: {before}\nafter it: {after}")
assert before == "comes back"
assert after.startswith("RecursionError")
PYTHON
