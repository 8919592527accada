import pytest
import torch
from PIL import Image

import slotlab
from slotlab.data import open_data
from slotlab.errors import ConfigError
from slotlab.models import SlotOutput, merge_slots
from slotlab.models.output import posterior_masks


def test_a_pixel_goes_to_the_slot_that_paints_its_colour_and_ties_go_by_the_masks():
    masks = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    slot_images = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 3)
    image = torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    found = posterior_masks(masks, slot_images, image, sigma=0.5)
    assert found.argmax(dim=1).flatten().tolist() == [0, 1, 0]
    # at the second pixel the distances are 3 and 0, so that 0.9 exp(-6) stands against 0.1
    expected = 0.1 / (0.1 + 0.9 * torch.exp(torch.tensor(-6.0)))
    torch.testing.assert_close(found[0, 1, 0, 1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 1, 3))
    torch.testing.assert_close(posterior_masks(masks, slot_images, image, 1e3), masks)  # a wide sigma says nothing


def test_a_model_with_pixel_sigma_is_scored_by_its_posterior_too(tiny_preset, squares):
    torch.manual_seed(0)
    model = slotlab.create_model(tiny_preset, pixel_sigma=0.2)
    plain = slotlab.create_model(tiny_preset)
    plain.load_state_dict(model.state_dict())
    data = open_data(squares, split="val", resolution=16)
    found, before = slotlab.evaluate(model, data), slotlab.evaluate(plain, data)
    assert found.protocol["mask_sources"]["posterior"].startswith("posterior masks")
    assert found.diagnostics["mask_source"] == "posterior"
    assert found.to_json()["posterior"].keys() == found.masks.keys()
    assert found.masks == before.masks
    assert "posterior" not in before.to_json()
    assert model.train()(torch.rand(1, 3, 16, 16)).posterior is None


def test_slot_attention_may_weigh_the_posterior(tiny_preset):
    changes = {"pixel_sigma": 1e3, "initialisation": "learned"}  # colours say nothing
    model = slotlab.create_model(tiny_preset, attended=True, **changes).eval()
    images = torch.rand(2, 3, model.resolution, model.resolution)
    found = model(images)
    both = found.masks * found.attention_masks()
    torch.testing.assert_close(found.posterior, both / both.sum(dim=1, keepdim=True), atol=1e-4, rtol=1e-4)
    assert "slot attention" in model.describe()["mask_sources"]["posterior"]
    with pytest.raises(ConfigError, match="attended: is of posterior masks, which need pixel_sigma"):
        slotlab.create_model(tiny_preset, attended=True)
    assert model.config["attended"]
    assert "attended" not in slotlab.create_model(tiny_preset, **changes).config  # old fingerprints stay


def test_sigma_must_be_a_width_and_without_it_there_is_no_posterior(tiny_preset):
    for sigma in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=r"model.pixel_sigma: Input should be"):
            slotlab.create_model(tiny_preset, pixel_sigma=sigma)
    with pytest.raises(ConfigError, match="this model has no posterior masks; it has masks, attention"):
        slotlab.segment_image(slotlab.create_model(tiny_preset), Image.new("RGB", (16, 16)), mask_source="posterior")


def output_of(masks, slots=None, images=None):
    masks = torch.tensor(masks, dtype=torch.float32)[None]  # [1, K, H, W]
    count = masks.shape[1]
    attention = masks.flatten(2)[:, None].expand(-1, 2, -1, -1)
    vectors = 10 * torch.eye(count)[None] if slots is None else torch.tensor(slots, dtype=torch.float32)[None]
    reconstruction = torch.rand(1, 3, *masks.shape[2:], generator=torch.Generator().manual_seed(0))
    painted = torch.rand(1, count, 3, *masks.shape[2:], generator=torch.Generator().manual_seed(1))
    return SlotOutput(vectors, attention, tuple(masks.shape[2:]), masks, reconstruction, painted, posterior=masks)


LEFT, RIGHT = [[1.0, 1, 0, 0]] * 4, [[0.0, 0, 1, 1]] * 4
HALF = [[0.5, 0.5, 0, 0]] * 4
SPECK = [[0.0, 0, 0, 0]] * 3 + [[0.0, 0, 0, 0.6]]
UNDER = [[0.0, 0, 1, 1]] * 3 + [[0.0, 0, 1, 0.4]]


def check_sums(found):
    for soft in (found.masks, found.posterior, found.attention.transpose(1, 2)):
        torch.testing.assert_close(soft.sum(dim=1), torch.ones_like(soft[:, 0]))


def test_two_slots_that_share_an_object_become_one():
    before = output_of([HALF, RIGHT, HALF])
    found = merge_slots(before)
    assert found.segmentation("posterior").unique().numel() == 2
    torch.testing.assert_close(found.masks[0, [0, 2]].sum(dim=0), torch.tensor(LEFT))
    assert sorted(found.masks[0].amax(dim=(1, 2)).tolist()) == [0, 1, 1]
    assert torch.equal(found.slots, before.slots)
    assert torch.equal(found.reconstruction, before.reconstruction)
    check_sums(found)
    kept = int(found.masks[0, [0, 2]].sum(dim=(1, 2)).argmax()) * 2
    both = before.slot_images[0, [0, 2]].mean(dim=0)[:, :, :2]  # what they painted together
    torch.testing.assert_close(found.slot_images[0, kept][:, :, :2], both)


def test_slots_side_by_side_stay_unless_their_vectors_are_nearly_equal():
    assert merge_slots(output_of([LEFT, RIGHT])).segmentation("masks").unique().numel() == 2
    halves = [[[1.0, 0, 0, 0]] * 4, [[0.0, 1, 0, 0]] * 4, RIGHT]
    vectors = [[1.0, 0], [1.1, 0], [0, 9]]
    assert merge_slots(output_of(halves, vectors)).segmentation("masks")[0, 0].tolist()[:2] in ([0, 0], [1, 1])
    assert merge_slots(output_of(halves, vectors), near=0).segmentation("masks").unique().numel() == 3


def test_a_slot_with_hardly_a_pixel_gives_it_to_the_others():
    before = output_of([LEFT, UNDER, SPECK])
    found = merge_slots(before, overlap=1, least=0.1)
    assert found.masks[0, 2].max() == 0
    torch.testing.assert_close(found.masks[0, 1], torch.tensor(RIGHT))
    check_sums(found)
    untouched = merge_slots(before, overlap=1, near=0, least=0)
    torch.testing.assert_close(untouched.masks, before.masks)


def test_an_image_does_not_change_what_is_merged_in_another():
    one, other = output_of([HALF, RIGHT, HALF]), output_of([LEFT, UNDER, SPECK])
    names = ("slots", "attention", "masks", "reconstruction", "slot_images", "posterior")
    both = SlotOutput(
        **{name: torch.cat([getattr(one, name), getattr(other, name)]) for name in names},
        attention_grid=one.attention_grid,
    )
    merged = merge_slots(both)
    for place, alone in enumerate((one, other)):
        torch.testing.assert_close(merged[place].masks, merge_slots(alone).masks)


def test_masks_that_the_model_does_not_have_are_refused():
    before = output_of([LEFT, RIGHT])
    before.posterior = None
    with pytest.raises(ValueError, match="posterior"):
        merge_slots(before, "posterior")
