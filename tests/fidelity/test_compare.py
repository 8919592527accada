import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import write_images, write_network

from slotlab.errors import DataError
from slotlab.fidelity import (
    FidelityWarning,
    SetInformation,
    SetStatistics,
    batch_statistics,
    clean_resize,
    compare,
    compare_folders,
    folder_statistics,
    open_network,
    statistics,
)
from slotlab.metrics.distances import FeatureStatistics, frechet_distance

pytestmark = pytest.mark.filterwarnings("ignore::slotlab.fidelity.FidelityWarning")


def features_by_hand(folder, feature_net):
    layers = torch.jit.load(str(feature_net)).layers
    pictures = [np.array(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    batch = torch.stack([torch.from_numpy(clean_resize(pixels)) for pixels in pictures])
    with torch.no_grad():
        return layers((batch - 128) / 128)[:, :, 0, 0].double().numpy()


def test_equals_the_definition_step_by_step(folders, feature_net, monkeypatch):
    monkeypatch.setattr("slotlab.fidelity.statistics.BATCH", 5)
    result = compare_folders(*folders, features=feature_net)
    a, b = (features_by_hand(folder, feature_net) for folder in folders)
    expected = frechet_distance(
        *(torch.from_numpy(x) for x in (a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)))
    )
    assert result.distance == pytest.approx(expected, rel=1e-4)
    assert result.distance > 0
    assert result.kernel > 0
    assert str(compare_folders(folders[0], folders[0], features=feature_net)).startswith("FD-small 0   KD")


def test_prints_its_protocol(folders, feature_net):
    few = r"12 images are fewer than 2,048: the distance is biased upwards, here by about [0-9.e-]+ \(two"
    with pytest.warns(FidelityWarning, match=few):
        result = compare_folders(*folders, features=feature_net, split="val")
    text = str(result)
    assert result.chance > 0
    for said in ("FD-small ", "KD-small ", "12 images of 20 x 16, split val", "15 images of 20 x 16", "note: "):
        assert said in text
    assert "FID" not in text
    assert "KID" not in text
    assert json.loads(json.dumps(result.as_dict()))["real"]["count"] == 12


def test_is_called_fid_with_the_published_network_only(folders, feature_net, monkeypatch):
    monkeypatch.setattr(statistics, "SHA256", statistics.sha256_of(feature_net))
    monkeypatch.setenv(statistics.VARIABLE, str(feature_net))
    result = compare_folders(*folders)
    assert (result.name, result.kernel_name) == ("FID", "KID")


def test_enough_images_are_not_warned_of():
    features = torch.randn(2048, 8, generator=torch.Generator().manual_seed(0))
    statistics = FeatureStatistics(8)
    statistics.add(features)
    enough = SetStatistics(SetInformation("random", None, "net", "0", 2048, (8, 8), 0), statistics, features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(enough, enough).notes == ()


def test_jpegs_and_different_resolutions_are_noted_and_mixed_sizes_refused_or_noted(tmp_path, feature_net):
    real = write_images(tmp_path / "real", size=(32, 24))
    generated = write_images(tmp_path / "generated", size=(16, 16), suffix=".jpg")
    (generated / "000000.jpg").rename(generated / "000000.png")  # still a JPEG, whatever its name
    result = compare_folders(real, generated, features=feature_net)
    assert any("generated: 12 JPEG images, whose artefacts change the distance" in note for note in result.notes)
    assert any("real images are 32 x 24 but generated ones 16 x 16" in note for note in result.notes)
    Image.new("RGB", (9, 7)).save(real / "000003.png")
    with pytest.raises(DataError, match=r"000003.png is 9 x 7, but .*000000.png is 32 x 24"):
        compare_folders(real, generated, features=feature_net)
    result = compare_folders(real, generated, features=feature_net, mixed_sizes=True)
    assert "12 images of mixed sizes" in result.protocol()
    assert any("images of mixed sizes" in note for note in result.notes)


def test_empty_and_single(tmp_path, folders, feature_net):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"empty: no image file"):
        compare_folders(tmp_path / "empty", folders[1], features=feature_net)
    single = write_images(tmp_path / "single", count=1)
    with pytest.raises(DataError, match="single: 1 image; a distance needs at least 2"):
        compare_folders(folders[0], single, features=feature_net)


def test_nan_features_and_a_broken_image_are_refused(folders, tmp_path):
    network = write_network(tmp_path / "broken.pt", weight=math.nan)
    with pytest.raises(DataError, match="features of 12 images are NaN or infinite, first that of image 0"):
        compare_folders(*folders, features=network)
    (folders[0] / "000007.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"000007.png: it cannot be decoded"):
        compare_folders(*folders, features=network)


def test_saved_statistics_replace_folders(folders, feature_net, tmp_path):
    network = open_network(feature_net)
    saved = tmp_path / "real.npz", tmp_path / "generated.npz"
    for folder, path in zip(folders, saved, strict=True):
        folder_statistics(folder, network, split="val").save(path)
    direct = compare_folders(*folders, features=feature_net)
    one = compare_folders(saved[0], folders[1], features=feature_net)
    both = compare_folders(*saved, features=tmp_path / "gone.pt")  # needs no network
    for again in (one, both):
        assert again.distance == pytest.approx(direct.distance, rel=1e-12)
        assert (again.name, again.kernel) == (direct.name, direct.kernel)
        assert (again.real.split, again.real.resolution) == ("val", (20, 16))


def test_mistakes_are_found_before_the_work(folders, feature_net, tmp_path):
    with pytest.raises(DataError, match="wrong: no such folder"):
        next(compare_folders.steps(folders[0], tmp_path / "wrong", features=tmp_path / "gone.pt"))
    other = open_network(write_network(tmp_path / "other.pt", seed=1))
    folder_statistics(folders[0], other).save(tmp_path / "reference.npz")
    steps = compare_folders.steps(tmp_path / "reference.npz", folders[1], features=feature_net)
    assert next(steps)[0] == "opening the feature net"
    with pytest.raises(DataError, match="make both with one feature net"):
        next(steps)


def test_damaged_statistics(tmp_path, feature_net, folders):
    with pytest.raises(DataError, match=r"gone.npz: no such file"):
        SetStatistics.load(tmp_path / "gone.npz")
    damaged = tmp_path / "damaged.npz"
    for content in ({"mean": np.zeros(3)}, {"information": np.array([{"an": "object"}], dtype=object)}):
        np.savez(damaged, **content)
        with pytest.raises(DataError, match=r"damaged.npz: not saved feature statistics"):
            SetStatistics.load(damaged)
    zeros = dict.fromkeys(("mean", "scatter", "sample"), np.zeros(3))
    np.savez(damaged, information=np.array(json.dumps({"format": 99})), **zeros)
    with pytest.raises(DataError, match="of another version of slotlab"):
        SetStatistics.load(damaged)
    folder_statistics(folders[0], open_network(feature_net)).save(damaged)
    arrays = dict(np.load(damaged))
    facts = json.loads(str(arrays["information"]))
    for name, values, message in (
        ("mean", np.zeros(99), "of different sizes"),
        ("sample", arrays["sample"] * np.nan, "not finite"),
        ("information", np.array(json.dumps(facts | {"count": "7"})), "no whole number"),
    ):
        np.savez(damaged, **arrays | {name: values})
        with pytest.raises(DataError, match=rf"damaged.npz: not saved feature statistics \(.*{message}"):
            SetStatistics.load(damaged)


def test_pictures_in_memory_equal_their_files(folders, feature_net):
    network = open_network(feature_net)
    arrays = [np.array(Image.open(path)) for path in sorted(folders[0].iterdir())]
    pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    filed = folder_statistics(folders[0], network)
    for batches in (pictures.split(5), [pictures / 255]):
        ours = batch_statistics(batches, network, "memory")
        torch.testing.assert_close(ours.statistics.mean, filed.statistics.mean, rtol=0, atol=1e-7)
        assert ours.information.resolution == (20, 16)
    for wrong, error, message in (
        ([], DataError, "nothing: no images"),
        ([torch.full((2, 3, 8, 8), math.nan)], DataError, "values from nan to nan"),
        ([torch.full((2, 3, 8, 8), 255.0)], DataError, r"values from 255 to 255; expected \[0, 1\]"),
        ([torch.full((2, 3, 8, 8), -1.0)], DataError, "values from -1 to -1"),
        ([torch.zeros(2, 3, 8, 8, dtype=torch.int64)], ValueError, "floating or uint8, got torch.int64"),
        ([torch.zeros(2, 1, 8, 8)], ValueError, r"expected images \[B, 3, H, W\], .* \[2, 1, 8, 8\]"),
    ):
        with pytest.raises(error, match=message):
            batch_statistics(wrong, network, "nothing")


def test_progress_and_subfolders(folders, feature_net, monkeypatch):
    monkeypatch.setattr("slotlab.fidelity.statistics.BATCH", 8)
    (folders[0] / "more").mkdir()
    (folders[0] / "000011.png").rename(folders[0] / "more" / "000011.PNG")
    _, *seen = compare_folders.steps(*folders, features=feature_net)
    real, generated = (f"features of {folder}" for folder in folders)
    assert seen == [(real, 8, 12), (real, 12, 12), (generated, 8, 15), (generated, 15, 15)]
