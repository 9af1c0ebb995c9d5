from captionkit.pipeline.worker_lines import without_noise

RED = (
    "[2026-11-27 19:56:57,791 E 29703 29703] core_worker.cc:2465: Actor with class name: 'PreemptionWatcher' and ID: "
    "'61' has constructor arguments in the object store and max_restarts > 0. If the arguments go out of scope"
)


def test_noise_goes_and_all_else_stays() -> None:
    kept = ["captions: step 1 of 1, cider 0.000", "ValueError: the loss is no number", "Requesting a seat"]
    batch = {"actor_name": "TrainController", "pid": 1, "lines": [RED, *kept, "Requesting resources: {'CPU': 1.0} * 1"]}
    without_noise(batch)
    assert batch["lines"] == kept


def test_an_actor_that_complains_of_a_shutdown_is_not_heard() -> None:
    batch = {"actor_name": "PlacementGroupCleaner", "pid": 1, "lines": ["Traceback (most recent call last):"]}
    without_noise(batch)
    assert batch["lines"] == []


def test_a_captioner_that_cannot_be_built_is_left_to_the_driver_to_name() -> None:
    batch = {"lines": ["Traceback", "  File ...", "captioner cannot be built on h (Ray node a): E: x"]}
    without_noise(batch)
    assert batch["lines"] == []
