import json

import numpy as np
import pytest
from PIL import Image

from slotlab.data.scenes import write_scenes
from slotlab.errors import ConfigError, DataError

SMALL = {"resolution": 32, "supersample": 1}


def test_published_layout(tmp_path):
    folder = write_scenes(tmp_path / "out", variant="textured", count=3, **SMALL)
    assert folder == tmp_path / "out" / "clevrtex_textured"
    assert sorted(path.name for path in (folder / "0").iterdir()) == sorted(
        f"CLEVRTEX_textured_{index:06d}{end}" for index in range(3) for end in (".png", "_flat.png", ".json")
    )
    for index in range(3):
        stem = folder / "0" / f"CLEVRTEX_textured_{index:06d}"
        picture = Image.open(f"{stem}.png")
        assert (picture.mode, picture.size) == ("RGB", (32, 32))
        flat = Image.open(f"{stem}_flat.png")
        assert flat.mode == "P"
        scene = json.loads(stem.with_suffix(".json").read_text())
        assert set(np.unique(np.array(flat))) == set(range(scene["num_objects"] + 1))
        assert scene["image_index"] == index
        assert scene["split"] == "textured"
        assert scene["image_filename"] == f"{stem.name}.png"
        assert scene["mask_filename"] == f"{stem.name}_flat.png"
        assert {"ground_material", "directions", "objects"} <= set(scene)
        for place, entry in enumerate(scene["objects"], start=1):
            assert entry["index"] == place
            assert {"shape", "size", "scale", "material", "color", "rotation", "3d_coords", "pixel_coords"} <= set(
                entry
            )


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
    ("options", "message"),
    [
        ({"count": 0}, r"count: must lie in 1\.\.1000000, got 0"),
        ({"variant": "plan"}, "did you mean 'plain'"),
        ({"resolution": 5}, "resolution"),
        ({"seed": -3}, "seed"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_scenes(tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()
