#!/usr/bin/env bash
# Ray Train's placement-group cleaner on a machine where a second Ray runs.
#
# ray 2.60.0: beside every training runs an actor that frees the training's placement group if its controller dies. It asks
# Ray's state API whether the controller lives, without saying of which Ray, though each worker of Ray knows its own. Where
# another Ray runs on the machine (another user's, or a test's), the state API refuses to choose: the actor's thread ends
# with a ConnectionError and a traceback in the log, while training goes on and ends well. From then on nothing would free
# the resources of a controller that died. With RAY_ADDRESS set to the own Ray, or with one Ray alone, it does not happen.
set -euo pipefail
home=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q "ray[default,train]==2.60.0"
cd "$home"
unset RAY_ADDRESS
cat > other.py <<'PYTHON'
import time

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
open("ready", "w").close()
time.sleep(600)
PYTHON
cat > train.py <<'PYTHON'
import time

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def loop():
    time.sleep(10)  # the cleaner looks every few seconds
    ray.train.report({"done": 1})


ray.init(address="local", num_cpus=2, include_dashboard=True)
DataParallelTrainer(
    loop, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path=f"{__import__('os').getcwd()}/runs")
).fit()
print("ended")
time.sleep(3)  # lines of workers come late
PYTHON
export RAY_TRAIN_V2_ENABLED=1
"$home/venv/bin/python" train.py > alone.log 2>&1
"$home/venv/bin/python" other.py > other.log 2>&1 &
for _ in $(seq 120); do [ -e ready ] && break; sleep 1; done
"$home/venv/bin/python" train.py > beside.log 2>&1
for run in alone beside; do
  refused=$(grep -c "ConnectionError: Found multiple active Ray instances" $run.log || true)
  ended=$(grep -c "^ended$" $run.log || true)
  echo "$run: ended $ended, the cleaner's ConnectionError $refused"
  eval "$run=\"$ended \$((refused > 0))\""
done
[ "$alone" = "1 0" ] && [ "$beside" = "1 1" ]
