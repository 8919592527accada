"""A stand-in for timm, and for a torchvision that does not load beside this torch.

`open_timm` puts the real timm into `sys.modules` if it is installed, else a small module with the
part of its interface that `slotlab.models.frozen_features` uses (timm 1.0).
"""

import importlib.machinery
import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

SIZES = {"vit_tiny_patch16_224": (16, 192, 12, 3), "vit_small_patch14_dinov2.lvd142m": (14, 384, 12, 6)}
NAME, ARGUMENTS = "vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}


class _Any(types.ModuleType):
    """A module whose every name is a class."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(
            name, (nn.Module,), {key: key for key in ("BILINEAR", "BICUBIC", "NEAREST", "LANCZOS", "BOX", "HAMMING")}
        )


class TinyViT(nn.Module):
    """A vision transformer with a class token, without its details."""

    def __init__(self, patch, embed_dim, depth, num_heads, img_size=224, dynamic_img_size=False):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.patch_embed = nn.Conv2d(3, embed_dim, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, (img_size // patch) ** 2, embed_dim))
        layer = nn.TransformerEncoderLayer
        blocks = (layer(embed_dim, num_heads, 4 * embed_dim, batch_first=True, dropout=0) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim)

    def forward_intermediates(self, x, indices, norm, stop_early, intermediates_only, output_fmt):
        assert (stop_early, intermediates_only, output_fmt) == (True, True, "NCHW")
        x = self.patch_embed(x)
        size = x.shape[2:]
        side = round(self.pos_embed.shape[1] ** 0.5)
        places = self.pos_embed.transpose(1, 2).unflatten(2, (side, side))
        x = (x + F.interpolate(places, size, mode="bicubic")).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks[: range(len(self.blocks))[indices[0]] + 1]:
            x = block(x)
        x = (self.norm(x) if norm else x)[:, 1:]
        return [x.transpose(1, 2).unflatten(2, size)]


def _create_model(name, pretrained=False, num_classes=None, checkpoint_path="", **more):
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:"):
        config = json.loads((folder / "config.json").read_text())
        name, more = config["architecture"], config["model_args"] | more
    if name not in SIZES:
        raise RuntimeError(f"Unknown model ({name})")
    network = TinyViT(**dict(zip(("patch", "embed_dim", "depth", "num_heads"), SIZES[name], strict=True)) | more)
    if pretrained:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    if checkpoint_path:
        network.load_state_dict(load_file(checkpoint_path))
    return network


def open_timm(monkeypatch):
    """The real timm or its stand-in, until the test ends."""
    for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".utils"):
        full = f"torchvision{name}"
        module = _Any(full)
        module.__spec__ = importlib.machinery.ModuleSpec(full, None)
        monkeypatch.setitem(sys.modules, full, module)
        if parent := full.rpartition(".")[0]:
            setattr(sys.modules[parent], full.rpartition(".")[2], module)
    if importlib.util.find_spec("timm") is None:
        timm = types.ModuleType("timm")
        timm.create_model = _create_model
        timm.__spec__ = importlib.machinery.ModuleSpec("timm", None)
        monkeypatch.setitem(sys.modules, "timm", timm)


def save_tiny(folder, seed=0):
    """Saves a tiny random transformer into a folder, in the layout of `timm.models.save_for_hf`."""
    import timm

    torch.manual_seed(seed)
    network = timm.create_model(NAME, pretrained=False, num_classes=0, **ARGUMENTS)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": NAME, "num_classes": 0, "model_args": ARGUMENTS, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return network
