import pytest
import torch
from PIL import Image

import slotlab
from slotlab.data import open_data
from slotlab.errors import ConfigError
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


def test_sigma_must_be_a_width_and_without_it_there_is_no_posterior(tiny_preset):
    for sigma in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=r"model.pixel_sigma: Input should be"):
            slotlab.create_model(tiny_preset, pixel_sigma=sigma)
    with pytest.raises(ConfigError, match="this model has no posterior masks; it has masks, attention"):
        slotlab.segment_image(slotlab.create_model(tiny_preset), Image.new("RGB", (16, 16)), mask_source="posterior")
