import json

import numpy as np
import pytest
import torch
from PIL import Image

from slotlab.config import run_config
from slotlab.data import (
    ClevrTex,
    Scenes,
    ScenesInMemory,
    SlotDataset,
    check_data,
    evaluation_batches,
    open_data,
    pack,
    training_batches,
)
from slotlab.data import scenes as scenes_module
from slotlab.data.scenes import write_scenes
from slotlab.errors import ConfigError, DataError
from slotlab.scenes import render
from slotlab.training.setup import open_split

SMALL = {"resolution": 32, "supersample": 1}


def scenes(**options):
    return open_data("scenes:plain", **{"resolution": 16, "count": 4, "max_objects": 3} | options)


def test_one_sample_type():
    data = scenes()
    assert isinstance(data, SlotDataset)
    assert data.has_masks
    sample = data[1]
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 16, 16), torch.float32)
    assert (sample["mask"].shape, sample["mask"].dtype) == ((16, 16), torch.int64)
    batch = data.batch([3, 1])
    assert torch.equal(batch["image"][1], sample["image"])
    with pytest.raises(IndexError):
        data[4]


def test_splits_are_ranges_of_scenes():
    assert scenes(split="test").batch([0, 3])["index"].tolist() == [0, 3]
    assert scenes(split="val").batch([0, 3])["index"].tolist() == [10_000, 10_003]
    assert scenes(split="train").batch([0, 3])["index"].tolist() == [20_000, 20_003]
    assert scenes(split="all").batch([0, 4, 11])["index"].tolist() == [0, 10_000, 20_003]
    assert [len(scenes(split=split, count=None)) for split in ("train", "val", "all")] == [10_000, 1_000, 12_000]


def test_objects_are_those_of_the_picture():
    data = scenes(resolution=64, split="train", max_objects=6)
    for number in (20_018, 20_025, 20_059):  # laid out otherwise where pixels are larger
        objects, coarse = (
            render([number], variant="plain", max_objects=6, resolution=side).metadata[0]["objects"]
            for side in (64, 16)
        )
        assert data.objects([number]) == [objects]
        assert [one["shape"] for one in objects] != [one["shape"] for one in coarse]


def test_describes_what_decides_the_pictures():
    described = scenes(seed=5).describe()
    assert described["data"] == "scenes:plain"
    assert (described["seed"], described["max_objects"], described["resolution"]) == (5, 3, 16)


def test_a_run_says_how_finely_its_scenes_are_sampled():
    config = run_config("scenes-32", ["supersample=2", "train_count=2"])
    assert [open_split(config, split).describe()["supersample"] for split in ("train", "val")] == [2, 2]


def test_endless_training():
    batches = training_batches(scenes(count=1_000_000_000), batch_size=2, seed=0)
    first, second = next(batches), next(batches)
    assert first["image"].shape == (2, 3, 16, 16)
    assert not set(first["index"].tolist()) & set(second["index"].tolist())


def test_packing_more_scenes_than_a_split_holds_takes_all_of_that_split(tmp_path, monkeypatch):
    for sizes in (scenes_module.MOST, scenes_module.DEFAULT_COUNT):
        monkeypatch.setitem(sizes, "val", 2)
        monkeypatch.setitem(sizes, "test", 1)
    out = pack("scenes:plain", tmp_path / "packed", resolution=16, count=3, max_objects=3)
    assert [len(open_data(out, split=split)) for split in ("train", "val", "test")] == [3, 2, 1]
    with pytest.raises(ConfigError, match="split 'val' of scenes holds 1 to 2"):
        pack("scenes:plain", tmp_path / "asked", resolution=16, count={"train": 3, "val": 3}, max_objects=3)


def test_packs_to_within_half_a_grey_level(tmp_path):
    out = pack("scenes:plain", tmp_path / "packed", resolution=16, count=3, max_objects=3)
    for split in ("train", "val"):
        packed, plain = open_data(out, split=split).batch(range(3)), scenes(split=split).batch(range(3))
        assert (packed["image"] - plain["image"]).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.equal(packed["mask"], plain["mask"])
        assert torch.equal(packed["index"], plain["index"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"count": 10_001, "split": "val"}, "holds 1 to 10,000"),
        ({"crop": 0.8}, r"crop=0\.8: scenes are rendered"),
        ({"max_objects": 2}, "min_objects"),
    ],
)
def test_what_cannot_be_rendered_is_refused_when_opened(options, message):
    with pytest.raises(ConfigError, match=message):
        scenes(**options)
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        open_data("scenes:plian")


def test_workers_render_too():
    data = scenes()
    images = torch.cat([batch["image"] for batch in evaluation_batches(data, batch_size=2, workers=1)])
    assert torch.equal(images, data.batch(range(4))["image"])


def test_scenes_written_to_disk_are_read_as_clevrtex(tmp_path):
    write_scenes(tmp_path / "out", variant="outd", count=10, resolution=40, max_objects=4)
    data = open_data(tmp_path / "out", split="all")
    assert isinstance(data, ClevrTex)
    assert (data.variant, len(data)) == ("outd", 10)
    batch = data.batch(range(10))
    assert batch["image"].shape == (10, 3, 32, 32)
    for position, mask in enumerate(batch["mask"]):
        assert mask.max() <= data.metadata(position)["num_objects"]
    assert check_data(tmp_path / "out").ok


class Counted(Scenes):
    rendered = 0

    def batch(self, positions):
        self.rendered += len(positions)
        return super().batch(positions)


def test_each_scene_is_rendered_once_and_stays_the_same(monkeypatch):
    monkeypatch.setattr(scenes_module, "RENDERED_TOGETHER", 1)
    scenes = Counted("plain", count=4, resolution=16)
    memory = ScenesInMemory(scenes)
    first = memory.batch([2, 0, 2])
    assert scenes.rendered == 2
    again = memory.batch([0, 2, 1])
    assert scenes.rendered == 3
    for key in ("image", "mask", "index"):
        assert torch.equal(first[key][:2], again[key][[1, 0]])
    direct = scenes.batch([2])
    assert torch.equal(direct["mask"], first["mask"][:1])
    assert torch.equal(direct["index"], first["index"][:1])
    assert (direct["image"] - first["image"][:1]).abs().max() <= 0.5 / 255 + 1e-6
    assert memory.describe() == scenes.describe()


def test_scenes_not_asked_for_yet_are_rendered_along():
    scenes = Counted("plain", count=4, resolution=16)
    memory = ScenesInMemory(scenes)
    memory.batch([2])
    assert scenes.rendered == 4
    assert torch.equal(memory.batch([3, 1])["index"], scenes.batch([3, 1])["index"])


def test_published_layout(tmp_path):
    folder = write_scenes(tmp_path / "out", variant="textured", count=3, **SMALL)
    assert folder == tmp_path / "out" / "clevrtex_textured"
    assert sorted(path.name for path in (folder / "0").iterdir()) == sorted(
        f"CLEVRTEX_textured_{index:06d}{end}" for index in range(3) for end in (".png", "_flat.png", ".json")
    )
    for index in range(3):
        stem = folder / "0" / f"CLEVRTEX_textured_{index:06d}"
        image, flat = Image.open(f"{stem}.png"), Image.open(f"{stem}_flat.png")
        assert (image.mode, image.size, flat.mode) == ("RGB", (32, 32), "P")
        scene = json.loads(stem.with_suffix(".json").read_text())
        assert set(np.unique(np.array(flat))) == set(range(scene["num_objects"] + 1))
        names = {"image_filename": f"{stem.name}.png", "mask_filename": f"{stem.name}_flat.png", "split": "textured"}
        assert {"image_index": index, **names}.items() <= scene.items()
        assert {"ground_material", "directions"} <= set(scene)
        assert [entry["index"] for entry in scene["objects"]] == list(range(1, scene["num_objects"] + 1))
        keys = {"shape", "size", "scale", "material", "color", "rotation", "3d_coords", "pixel_coords"}
        assert all(keys <= set(entry) for entry in scene["objects"])


def test_writing_goes_on_where_it_stopped(tmp_path):
    folder = write_scenes(tmp_path, variant="plain", count=2, **SMALL)
    first = folder / "0" / "CLEVRTEX_plain_000000.png"
    before = first.stat().st_mtime_ns
    broken = folder / "0" / "CLEVRTEX_plain_000001.json"
    content = broken.read_bytes()
    broken.unlink()
    write_scenes(tmp_path, variant="plain", count=3, **SMALL)
    assert first.stat().st_mtime_ns == before
    assert broken.read_bytes() == content
    assert (folder / "0" / "CLEVRTEX_plain_000002.json").exists()


def test_other_settings_are_refused(tmp_path):
    write_scenes(tmp_path, variant="plain", count=1, **SMALL)
    with pytest.raises(ConfigError, match=r"rendered scenes with other settings \(seed was 1, now 5\)"):
        write_scenes(tmp_path, variant="plain", count=1, seed=5, **SMALL)
    with pytest.raises(DataError, match="holds more scenes than count=1"):
        write_scenes(tmp_path, variant="plain", count=2, **SMALL)
        write_scenes(tmp_path, variant="plain", count=1, **SMALL)


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    for out in (tmp_path, tmp_path / "holiday.jpg"):
        with pytest.raises(ConfigError, match="not empty and does not hold rendered scenes; name a new folder"):
            write_scenes(out, count=1, **SMALL)
    (tmp_path / "scenes.json").write_text("{")
    with pytest.raises(ConfigError, match=r"scenes\.json: not readable as JSON"):
        write_scenes(tmp_path, count=1, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"), [({"count": 0}, r"count: must lie in 1\.\.1000000, got 0"), ({"seed": -3}, "seed")]
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_scenes(tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()
