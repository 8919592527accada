import time
from itertools import islice

import numpy as np
import pytest
import torch

from slotlab.data import evaluation_batches, open_data, pack, shuffled_positions, training_batches
from slotlab.data.loading import LARGEST_PERMUTATION, MIRRORED, batch_positions, in_order, mirrored
from slotlab.errors import ConfigError


@pytest.fixture
def data(clevrtex, tmp_path):
    return open_data(pack(clevrtex(23), tmp_path / "packed", resolution=8), split="all")


def indices(batches, count):
    return [next(batches)["index"].tolist() for _ in range(count)]


def joined(lists):
    return [number for numbers in lists for number in numbers]


def test_shuffles_are_permutations_of_their_own():
    shuffles = [shuffled_positions(100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(shuffle) == list(range(100)) for shuffle in shuffles)
    assert len({tuple(shuffle) for shuffle in shuffles}) == 4
    with pytest.raises(ConfigError, match="seed=-1"):
        shuffled_positions(10, -1, 0)


def test_every_sample_comes_once_an_epoch(data):
    order = joined(indices(training_batches(data, batch_size=5, seed=3), 23))
    for epoch in range(5):
        assert sorted(order[epoch * 23 : (epoch + 1) * 23]) == list(range(23))
    assert indices(training_batches(data, batch_size=50, seed=3), 1) == [order[:50]]  # larger than the data set


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start_step", [0, 4, 11])
def test_a_resumed_run_sees_what_an_uninterrupted_one_would(data, workers, start_step):
    whole = indices(training_batches(data, batch_size=6, seed=1), 14)
    resumed = training_batches(data, batch_size=6, seed=1, start_step=start_step, workers=workers)
    assert indices(resumed, 14 - start_step) == whole[start_step:]


def test_a_device_makes_several_batches_at_a_time(data, monkeypatch):
    class OnDevice:
        device, made = torch.device("cuda"), 0

        def __len__(self):
            return len(data)

        def batch(self, positions):
            self.made += 1
            return data.batch(positions)

    monkeypatch.setattr("slotlab.data.loading.DEVICE_IMAGES", 26)  # four batches of six
    whole, there = training_batches(data, batch_size=6, seed=1, start_step=3), OnDevice()
    for one, other in zip(islice(whole, 9), training_batches(there, batch_size=6, seed=1, start_step=3), strict=False):
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
    assert there.made == 3
    assert indices(evaluation_batches(there, batch_size=5), 5) == indices(evaluation_batches(data, batch_size=5), 5)


def test_ranks_share_the_global_batch(data):
    whole = indices(training_batches(data, batch_size=6, seed=1), 8)
    parts = [indices(training_batches(data, batch_size=6, seed=1, rank=r, world_size=3), 8) for r in range(3)]
    assert [joined(part[step] for part in parts) for step in range(8)] == whole


def test_mirrored_images_keep_their_masks_and_have_another_index(data):
    plain, seen = (
        training_batches(data, batch_size=6, seed=1),
        training_batches(data, batch_size=6, seed=1, mirror=True),
    )
    found = set()
    for one, other in islice(zip(plain, seen, strict=True), 20):
        turned = other["index"] != one["index"]
        found |= {*turned.tolist()}
        assert other["image"][~turned].equal(one["image"][~turned]) and other["mask"][~turned].equal(
            one["mask"][~turned]
        )
        assert other["image"][turned].flip(-1).equal(one["image"][turned])
        assert other["mask"][turned].flip(-1).equal(one["mask"][turned])
        assert (other["index"] % MIRRORED).equal(one["index"])
    assert found == {True, False}
    whole = indices(training_batches(data, batch_size=6, seed=1, mirror=True), 8)
    assert indices(training_batches(data, batch_size=6, seed=1, mirror=True, start_step=5, workers=1), 3) == whole[5:]
    halves = (training_batches(data, batch_size=6, seed=1, mirror=True, rank=rank, world_size=2) for rank in (0, 1))
    assert joined(next(half)["index"].tolist() for half in halves) == whole[0]


def test_all_frames_of_a_clip_are_mirrored_alike_and_what_is_packed_beside_images_is_left_out():
    image, mask = torch.rand(2, 3, 3, 4, 4), torch.randint(0, 3, (2, 3, 4, 4))
    clips = {"image": image.clone(), "mask": mask.clone(), "index": torch.arange(2), "latents": torch.zeros(2, 1)}
    seen = mirrored(clips, torch.tensor([False, True]))
    assert seen["image"][1].flip(-1).equal(image[1]) and seen["mask"][1].flip(-1).equal(mask[1])
    assert seen["image"][0].equal(image[0]) and seen.keys() == {"image", "mask", "index"}
    assert clips["image"].equal(image) and clips["index"].tolist() == [0, 1]  # a data set may keep them


def test_endless_data_sets_need_no_permutation_in_memory():
    count = 1_000_000_000
    steps = [batch_positions(step, count=count, batch_size=64, seed=0) for step in range(50)]
    seen = np.concatenate(steps)
    assert len(np.unique(seen)) == len(seen)
    assert 0 <= seen.min() < seen.max() < count
    again = batch_positions(7, count=count, batch_size=64, seed=0)
    np.testing.assert_array_equal(again, steps[7])
    assert not np.array_equal(batch_positions(0, count=count, batch_size=64, seed=1), steps[0])


def test_strides_meet_every_sample(monkeypatch):
    monkeypatch.setattr("slotlab.data.loading.LARGEST_PERMUTATION", 10)
    assert LARGEST_PERMUTATION > 10
    for count in (12, 30, 64, 97):
        for seed in range(5):
            order = np.concatenate([batch_positions(s, count=count, batch_size=1, seed=seed) for s in range(count)])
            assert sorted(order) == list(range(count))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3, 40])
def test_evaluation_takes_every_sample_once_in_order(data, world_size, workers):
    if workers and world_size == 40:
        pytest.skip("forty loaders with workers take long")
    seen = [
        batch["index"].tolist()
        for rank in range(world_size)
        for batch in evaluation_batches(data, batch_size=5, rank=rank, world_size=world_size, workers=workers)
    ]
    assert joined(seen) == list(range(23))
    assert max(len(part) for part in seen) <= 5


def test_opening_batches_draws_nothing_from_the_global_generator(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(training_batches(data, batch_size=4, seed=0))
    next(evaluation_batches(data, batch_size=4, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "world_size": 2}, "batch_size=5: take a multiple of 2"),
        ({"batch_size": 0}, "batch_size=0: expected 1 or more"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_arguments_out_of_range(data, options, message):
    with pytest.raises(ConfigError, match=message):
        training_batches(data, **{"batch_size": 4, "seed": 0} | options)


def test_results_come_in_order_though_work_does_not():
    def slowly(number):
        time.sleep(0.01 if number % 4 == 0 else 0)
        return number * number

    assert list(in_order(slowly, range(40), threads=4)) == [number * number for number in range(40)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda number: 1 / number, range(100), threads=2))


def test_works_only_a_few_items_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), threads=2)
    assert next(results) == 0
    assert len(taken) <= 8
