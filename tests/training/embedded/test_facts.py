import math

import pytest
import torch
from torch import nn

from captionkit.scenes import random_scene
from captionkit.scenes.scene import MIRRORED
from captionkit.scenes.world import BACKGROUNDS, COLOURS, KINDS, PLACES, SIZES, TIMES
from captionkit.training.embedded.facts import FACTS, fact_loss, facts


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


def test_features_that_hold_the_facts_cost_nothing() -> None:
    targets = torch.tensor([facts(random_scene(seed)) for seed in range(4)])
    logits = nn.Parameter(torch.zeros(4, FACTS))
    before = fact_loss(torch.sigmoid(logits), targets).item()
    assert before > 10
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        fact_loss(torch.sigmoid(logits), targets).backward()
        optimizer.step()
    after = fact_loss(torch.sigmoid(logits), targets).item()
    assert math.isfinite(after)
    assert after < 0.2


def test_certainty_beyond_measure_is_no_trouble() -> None:
    targets = torch.tensor([facts(random_scene(0))])
    for value in (0.0, 1.0):
        features = torch.full((1, FACTS), value, requires_grad=True)
        loss = fact_loss(features, targets)
        loss.backward()
        assert math.isfinite(loss.item())
        assert features.grad is not None
        assert features.grad.isfinite().all()


def test_an_encoder_of_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match=f"{FACTS} features"):
        fact_loss(torch.rand(1, 512), torch.tensor([facts(random_scene(0))]))
