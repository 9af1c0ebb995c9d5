#!/usr/bin/env bash
# Tests of one group (`xdist_group`) on two workers.
#
# pytest-xdist 3.8.0 with --dist loadgroup sends the tests of a group to one worker: it writes the group behind each
# test's name, into the item's private field, and the scheduler reads it there. pytest 9.2.0 makes an item's name from
# another field. So the group is lost, without a warning, and every test is a unit for itself: fixtures of a module or
# session are made once a worker, and what may not run twice at a time does. With pytest 9.1.1 the group holds.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
cd "$home"
cat > test_group.py <<'PYTHON'
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_it(number, worker_id):
    time.sleep(0.3)
    with open(f"ran-{worker_id}", "a") as file:
        print(number, file=file)
PYTHON
for pytest in 9.1.1 9.2.0; do
    "$home/venv/bin/pip" install -q "pytest==$pytest" pytest-xdist==3.8.0
    rm -f ran-*
    "$home/venv/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup test_group.py > "log-$pytest"
    workers=$(ls ran-* | wc -l)
    echo "pytest $pytest: a group of 6 tests ran on $workers worker(s)"
    echo "$workers" >> seen
done
test "$(tr '\n' ' ' < seen)" = "1 2 "
