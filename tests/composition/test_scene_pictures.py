"""How scenes are read and edits painted, whatever the edit."""

import numpy as np
import pytest
import torch
from edit_samples import blobs, pictures, same, seeded_model
from PIL import Image

from slotlab.checkpoints import load
from slotlab.composition import edits
from slotlab.composition.edits import paint_edit, read_scene
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.models.sampling import SamplingSettings


def test_a_scene_is_what_the_model_makes_of_the_image(any_model, squares):
    scene = read_scene(any_model, pictures(squares)[0])
    assert scene.slots.shape == (4, 8)
    assert scene.image.shape == (3, 16, 16)
    assert scene.masks.sum(dim=0).allclose(torch.ones(16, 16), atol=1e-5)
    stored = torch.from_numpy(np.asarray(Image.open(pictures(squares)[0])).copy()).permute(2, 0, 1) / 255
    assert scene.image.allclose(stored)
    assert same(scene, read_scene(any_model, stored))
    assert not same(scene, read_scene(any_model, stored, seed=1))
    x, y = 3, 11
    assert scene.slot_at(x, y) == int(scene.segmentation()[y, x]) == int(scene.masks[:, y, x].argmax())


def test_poses_are_there_where_the_decoder_reads_them(tiny_preset, relative, squares):
    assert read_scene(relative, pictures(squares)[0]).poses.shape == (4, 4)
    blind = seeded_model(tiny_preset, **{"slot_attention.frame": "relative"})
    assert read_scene(blind, pictures(squares)[0]).poses is None


def test_another_size_is_cut_to_the_centred_square_and_resized(model, tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    expected = np.asarray(Image.fromarray(wide[:, 16:48]).resize((16, 16), Image.Resampling.BILINEAR))
    scene = read_scene(model, tmp_path / "wide.png")
    assert (scene.image * 255).round().byte().equal(torch.from_numpy(expected.copy()).permute(2, 0, 1))
    tensor = torch.from_numpy(wide).permute(2, 0, 1) / 255
    assert read_scene(model, tensor).image.equal(scene.image)
    half = np.asarray(Image.fromarray(wide[8:24, 24:40]))
    cropped = read_scene(model, tensor, crop=0.5).image
    assert (cropped * 255).round().byte().equal(torch.from_numpy(half.copy()).permute(2, 0, 1))


def test_a_picture_is_turned_upright(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    assert Image.open(tmp_path / "turned.png").getexif()[0x0112] == 6
    scene = read_scene(model, tmp_path / "turned.png")
    upright = np.rot90(pixels, -1).copy()
    assert (scene.image * 255).round().byte().equal(torch.from_numpy(upright).permute(2, 0, 1))


def test_reading_and_painting_leave_the_mode_of_the_model(tiny_preset, squares):
    model = seeded_model(tiny_preset).train()
    scene = read_scene(model, pictures(squares)[0])
    edited = paint_edit(model, scene, edits.remove(scene, [0]))
    assert model.training
    assert not edited.image.requires_grad


def test_the_same_seed_paints_the_same(diffusion, squares):
    scene = read_scene(diffusion, pictures(squares)[0])
    plan = edits.remove(scene, [0])
    first = paint_edit(diffusion, scene, plan, seed=3)
    assert paint_edit(diffusion, scene, plan, seed=3).image.equal(first.image)
    assert not paint_edit(diffusion, scene, plan, seed=4).image.equal(first.image)


def test_keep_outside_keeps_what_is_beyond_the_soft_edge(tiny_preset):
    model, scene = blobs(tiny_preset, [[-0.6, -0.6, 0.1, 0.1], [0.5, 0.5, 0.3, 0.3]])
    with torch.no_grad():
        model.decoder.to_rgb_and_mask.weight[0, :4, 1, 1] = -5  # masks so soft that every slot shows everywhere
        model.decoder.to_rgb_and_mask.weight[1:, :4, 1, 1] = 0.1  # colours that depend on the slot
    plan = edits.replace(scene, 0, torch.full((8,), 0.1))
    free, kept = (paint_edit(model, scene, plan, keep_outside=keep) for keep in (False, True))
    assert free.region.equal(kept.region)
    beyond = torch.ones(16, 16, dtype=torch.bool)
    for y, x in kept.region.nonzero().tolist():
        beyond[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = False
    assert beyond.any() and kept.region.any()
    assert kept.image[:, kept.region].equal(free.image[:, free.region])
    assert kept.image[:, beyond].equal(kept.before[:, beyond])
    assert not free.image[:, beyond].equal(free.before[:, beyond])
    edge = ~beyond & ~kept.region
    halfway = (free.image + free.before) / 2
    assert kept.image[:, edge].allclose(halfway[:, edge], atol=1e-6)
    assert kept.outside_error < free.outside_error


def test_a_sampled_edit_shows_how_it_becomes(diffusion, squares):
    scene = read_scene(diffusion, pictures(squares)[0])
    plan, told = edits.remove(scene, [1]), []
    settings = SamplingSettings("ddim", 3)
    edited = paint_edit(diffusion, scene, plan, 4, sampling=settings, on_image=lambda *said: told.append(said))
    assert [said[:2] for said in told] == [(1, 3), (2, 3), (3, 3)]
    assert all(image.shape == (3, 16, 16) and 0 <= image.min() <= image.max() <= 1 for *_, image in told)
    assert told[-1][2].allclose(edited.image, atol=1e-4)
    quiet = paint_edit(diffusion, scene, plan, 4, sampling=settings)
    assert quiet.image.equal(edited.image)
    assert not quiet.image.equal(paint_edit(diffusion, scene, plan, 4).image)


def test_a_sampled_edit_can_be_stopped(diffusion, squares):
    scene = read_scene(diffusion, pictures(squares)[0])

    def stop(done, steps, image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paint_edit(diffusion, scene, edits.remove(scene, [1]), on_image=stop)
    assert not diffusion.training


def test_a_model_that_paints_in_one_step_has_no_sampler(model, scene):
    with pytest.raises(ConfigError, match="paints in one step"):
        paint_edit(model, scene, edits.remove(scene, [1]), sampling=SamplingSettings())


def test_what_cannot_be_read_is_named(model, latents_run, tmp_path):
    with pytest.raises(DataError, match=r"none.png: no such image file"):
        read_scene(model, tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken.png: it cannot be decoded .*; give another file$"):
        read_scene(model, tmp_path / "broken.png")
    with pytest.raises(ValueError, match=r"image: expected \[3, H, W\], got \[16, 16\]"):
        read_scene(model, torch.zeros(16, 16))
    with pytest.raises(ConfigError, match=r"crop: must be above 0 and at most 1, not 0"):
        read_scene(model, torch.zeros(3, 16, 16), crop=0)
    with pytest.raises(CheckpointError, match=r"a latent-autoencoder has no slots"):
        read_scene(load(latents_run), torch.zeros(3, 16, 16))
