"""Sample photographs."""

from PIL import Image

from slotlab.data.published import SAMPLES


def test_samples_are_small_photographs_with_their_credits(run_slotlab, tmp_path):
    status, out, err = run_slotlab("data", "samples", tmp_path / "samples")
    assert status == 0, err
    assert "5 photographs" in out
    photographs = sorted((tmp_path / "samples").glob("*.jpg"))
    credits = (tmp_path / "samples" / "CREDITS.md").read_text(encoding="utf-8")
    for path in photographs:
        with Image.open(path) as image:
            assert image.format == "JPEG" and max(image.size) <= 640
        assert f"`{path.name}`" in credits
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 700_000
    assert run_slotlab("data", "samples", tmp_path / "samples")[0] == 0  # again, over the same files


def test_samples_replace_no_other_file(run_slotlab, tmp_path):
    (tmp_path / "bus.jpg").write_bytes(b"mine")
    status, _, err = run_slotlab("data", "samples", tmp_path)
    assert status == 2 and "bus.jpg: exists and is another file" in err
    assert (tmp_path / "bus.jpg").read_bytes() == b"mine" and not (tmp_path / "CREDITS.md").exists()
