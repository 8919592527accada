"""Trained models in other formats: ONNX, checked against the model itself."""

import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from slotlab.errors import CheckpointError, needs
from slotlab.files import replacing
from slotlab.models import FeatureModel, LatentAutoencoder, Model
from slotlab.models.building import evaluating

TOLERANCE = 1e-3  # of slots, masks and colours in onnxruntime


class _Outputs(nn.Module):
    """Images to the tensors of a model's output, by `names`; initial slots are constant."""

    start: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.names: list[str] = []
        if not isinstance(model, LatentAutoencoder):
            attention = cast(Any, model).encoder.slot_attention
            start = attention.initial_slots(1, torch.Generator().manual_seed(0)).detach()
            self.register_buffer("start", start, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model = cast(Any, self.model)
        if isinstance(model, LatentAutoencoder):
            return self._tensors(model(images))
        attention, start = model.encoder.slot_attention, self.start
        attention.initial_slots = lambda batch, generator: start.expand(batch, -1, -1)
        try:
            return self._tensors(model.segment(images))
        finally:
            del attention.initial_slots  # the method of the class again

    def _tensors(self, output: object) -> tuple[Tensor, ...]:
        found = {name: value for name, value in vars(output).items() if isinstance(value, Tensor) and value.ndim > 1}
        found = {name: value for name, value in found.items() if 0 not in value.shape[1:]}
        self.names = list(found)
        return tuple(found.values())


def export(model: Model, path: str | Path) -> dict[str, float]:
    """Writes a model as an ONNX file, and checks it in onnxruntime.

    The file takes `images`, float32 [B, 3, R, R] in [0, 1] with any B, and gives what
    `model.segment` gives: `slots` [B, K, D], `attention` [B, T, K, N], `masks` [B, K, R, R], and
    what the decoder adds (slot diffusion samples nothing; a latent autoencoder gives its
    reconstruction and latents). Initial slots are constant: those of seed 0 where they are drawn.

    Args:
        model: a slot autoencoder, slot diffusion or a latent autoencoder, on the CPU.
        path: the file, e.g. "model.onnx".

    Returns:
        The largest difference from the model, by output, on random images.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: a model that cannot be exported, or whose file gives other numbers.
    """
    if isinstance(getattr(model, "image_model", model), FeatureModel):
        raise CheckpointError(f"a {model.kind} cannot be exported: its superpixels and frozen network stay outside")
    with needs("onnx", "ONNX needs"):
        runtime, _ = (import_module(name) for name in ("onnxruntime", "onnxscript"))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    outputs, generator = _Outputs(model), torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, model.resolution, model.resolution, generator=generator)
    with evaluating(outputs), torch.no_grad(), replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and onnxscript among themselves
        expected = outputs(images)
        program: Any = torch.onnx.export(
            outputs,
            (images[:2],),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=outputs.names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        program.save(str(temporary))
        session = runtime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": images.numpy()})
        pairs = zip(outputs.names, expected, found, strict=True)
        differences = {name: float((want - torch.from_numpy(got)).abs().max()) for name, want, got in pairs}
        wrong = [f"{name} by {value:.2g}" for name, value in differences.items() if not value <= TOLERANCE]
        if wrong:
            raise CheckpointError(f"{path}: not written: onnxruntime differs from the model in {', '.join(wrong)}")
    return differences
