import numpy as np
import pytest
import torch
from PIL import Image

import slotlab
from slotlab import checkpoints
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.models import merge_slots
from slotlab.models.sampling import seeded_generator
from slotlab.segmenting import FITS

COLOURS = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)


@pytest.mark.parametrize("fit", FITS)
def test_everything_comes_back_in_the_size_of_the_image(model, fit):
    found = slotlab.segment_image(model, Image.fromarray(COLOURS), fit=fit)
    assert found.masks.shape == (4, 30, 44)
    assert found.segmentation.shape == (30, 44)
    assert found.segmentation.dtype == torch.int64
    assert found.reconstruction.shape == (3, 30, 44)
    assert found.overlay.size == (44, 30)
    assert found.slots.shape == (4, 8)
    seen = found.segmentation != 255
    assert torch.equal(found.segmentation[seen], found.masks.argmax(dim=0)[seen])
    assert torch.allclose(found.masks.sum(dim=0), seen.float(), atol=1e-5)
    assert seen.all() == (fit != "crop")
    assert int((~seen).sum()) == (0 if fit != "crop" else 30 * 14)
    assert 0 <= found.reconstruction.min() <= found.reconstruction.max() <= 1


def test_a_square_image_gives_what_the_model_gives(model):
    pixels = COLOURS[:16, :16]
    found = slotlab.segment_image(model, Image.fromarray(pixels), seed=5)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()[None] / 255
    with torch.no_grad():
        output = model(image, [seeded_generator(5)])
    assert torch.allclose(found.masks, output.masks[0], atol=1e-6)
    assert torch.allclose(found.slots, output.slots[0], atol=1e-6)
    assert torch.equal(found.segmentation, output.segmentation()[0])
    merged = slotlab.segment_image(model, Image.fromarray(pixels), seed=5, merge=True)
    assert torch.allclose(merged.masks, merge_slots(output).masks[0], atol=1e-6)


def test_the_seed_alone_decides_what_is_random_and_the_model_keeps_its_mode(model):
    image = Image.fromarray(COLOURS)
    model.train()
    one, same, other = (slotlab.segment_image(model, image, seed=seed).slots for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert model.training
    model.eval()


def test_a_name_or_folder_stands_for_the_model_and_an_array_or_bytes_for_the_image(model, model_folder, tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "photo.png")
    expected = slotlab.segment_image(model, Image.fromarray(COLOURS))
    tensor = torch.from_numpy(COLOURS).permute(2, 0, 1) / 255
    for image in (COLOURS, tensor, tmp_path / "photo.png", (tmp_path / "photo.png").read_bytes()):
        assert torch.equal(slotlab.segment_image(str(model_folder), image).masks, expected.masks)
    with pytest.raises(CheckpointError, match="scenes-64"):
        slotlab.segment_image("scenes-46", COLOURS)


TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")


@pytest.mark.parametrize(("orientation", "turn"), enumerate(TURNS, start=2))
def test_turned_photographs_are_seen_upright(model, tmp_path, orientation, turn):
    upright, exif = Image.fromarray(COLOURS), Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(Image.Transpose[turn]).save(tmp_path / "photo.png", exif=exif)
    found = slotlab.segment_image(model, tmp_path / "photo.png")
    expected = slotlab.segment_image(model, upright)
    assert torch.equal(found.segmentation, expected.segmentation)
    assert found.overlay.tobytes() == expected.overlay.tobytes()


def test_slot_diffusion_uses_its_attention_masks_unless_told_otherwise(diffusion_run):
    diffusion = checkpoints.load(diffusion_run)
    image = Image.fromarray(COLOURS[:16, :16])
    found, attention, masks = (
        slotlab.segment_image(diffusion, image, mask_source=source) for source in (None, "attention", "masks")
    )
    assert torch.equal(found.masks, attention.masks)
    assert not torch.allclose(found.masks, masks.masks)
    assert torch.equal(found.reconstruction, masks.reconstruction)


def test_a_model_whose_training_diverged_is_refused(tiny_preset):
    broken = slotlab.create_model(tiny_preset)
    for weight in broken.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite; its training diverged"):
        slotlab.segment_image(broken, Image.fromarray(COLOURS))


def test_bad_input(model, latents_run, tmp_path):
    image = Image.fromarray(COLOURS)
    with pytest.raises(ConfigError, match="mask_source: unknown 'atention'; did you mean 'attention'"):
        slotlab.segment_image(model, image, mask_source="atention")
    with pytest.raises(ConfigError, match="fit: unknown 'squeeze'"):
        slotlab.segment_image(model, image, fit="squeeze")
    with pytest.raises(CheckpointError, match="latent-autoencoder has no slots"):
        slotlab.segment_image(checkpoints.load(latents_run), image)
    with pytest.raises(DataError, match=r"nowhere\.png: no such image file"):
        slotlab.segment_image(model, tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="a folder; name an image file in it"):
        slotlab.segment_image(model, tmp_path)
    big = Image.new("L", (8193, 8192))
    with pytest.raises(DataError, match="8,193x8,192 pixels; at most 67,108,864 in all can be read"):
        slotlab.segment_image(model, big)
