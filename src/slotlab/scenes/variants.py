"""The named kinds of scenes: which shapes and materials each draws from."""

from dataclasses import dataclass

SIZES: dict[str, float] = {"small": 0.4, "medium": 0.6, "large": 0.9}


@dataclass(frozen=True)
class Variant:
    """The vocabulary of one kind of scenes; `shared_material`: the objects take the ground's material."""

    shapes: tuple[str, ...]
    materials: tuple[str, ...]
    grounds: tuple[str, ...]
    shared_material: bool = False


_SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "capsule")
_TEXTURES = (
    "uniform", "marble", "wood", "planks", "bricks", "checker", "stripes", "dots", "cells", "noise", "brushed",
    "speckled", "weave", "rust",
)  # fmt: skip
_HELD_OUT = ("chevron", "tartan", "rings", "leopard", "mosaic", "crackle")

VARIANT_TABLE: dict[str, Variant] = {
    "plain": Variant(("sphere", "cube", "cylinder"), ("rubber", "metal"), ("backdrop",)),
    "textured": Variant(_SHAPES, _TEXTURES, _TEXTURES),
    "camouflage": Variant(_SHAPES, _TEXTURES[1:], _TEXTURES[1:], shared_material=True),
    "outd": Variant(("ellipsoid", "dome", "pyramid", "tetrahedron", "prism"), _HELD_OUT, _HELD_OUT),
}
VARIANTS: tuple[str, ...] = tuple(VARIANT_TABLE)
