import math

import torch

from captionkit.scenes import random_scene
from captionkit.scenes.scene import MIRRORED
from captionkit.scenes.world import BACKGROUNDS, COLOURS, KINDS, PLACES, SIZES, TIMES
from captionkit.training.attributes import AttributeHead, facts
from captionkit.training.loop import LoopOptions, fit


def test_facts_say_all_of_a_scene() -> None:
    for seed in range(200):
        scene = random_scene(seed)
        *things, background, time = facts(scene)
        assert tuple(BACKGROUNDS)[background] == scene.background
        assert TIMES[time] == scene.time
        for number, kind in enumerate(KINDS):
            colour, count, size, place = things[4 * number : 4 * number + 4]
            group = scene.find(kind)
            if group is None:
                assert (colour, count, size, place) == (-1, -1, -1, -1)
            else:
                assert tuple(COLOURS)[colour] == group.colour
                assert count + 1 == group.count
                assert tuple(SIZES)[size] == group.size
                assert (None, *PLACES)[place] == group.place


def test_a_mirror_changes_places_alone() -> None:
    for seed in range(50):
        scene = random_scene(seed)
        assert [g.place for g in scene.mirrored().groups] == [
            MIRRORED.get(g.place or "", g.place) for g in scene.groups
        ]
        differing = [at for at, (a, b) in enumerate(zip(facts(scene), facts(scene.mirrored()), strict=True)) if a != b]
        assert all(at % 4 == 3 for at in differing)


def test_the_head_learns_facts_from_features_that_hold_them() -> None:
    torch.manual_seed(0)
    targets = torch.tensor([facts(random_scene(seed)) for seed in range(4)])
    features = torch.eye(4)
    head = AttributeHead(4)
    before = head.loss(features, targets).item()
    assert before > 10

    def batches():  # type: ignore[no-untyped-def]
        while True:
            yield features, targets

    fit(head, head.loss, batches(), LoopOptions(200, 0.3, weight_decay=0.0))
    after = head.loss(features, targets).item()
    assert after < 0.2
    assert math.isfinite(after)
