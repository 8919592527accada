"""Slot attention over frozen features, decoded into those features: DINOSAUR, SPOT and faster."""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.models.building import Positive, Resolution, build, check_arguments, check_images, configured, initialise
from slotlab.models.feature_grouping import feature_colours, snapped, spectral_groups
from slotlab.models.frozen_features import FrozenFeatures
from slotlab.models.output import SlotFeatureOutput, SuperpixelOutput
from slotlab.models.sampling import Generators
from slotlab.models.slot_attention import Begin, SlotAttention
from slotlab.models.slot_encoder import SlotModelBase

MOST_KEPT = 100_000  # images whose starting groups training keeps in memory, 3 KiB each
Decoded = tuple[Tensor, Tensor]  # features [B, N, C] and masks [B, K, N], which sum to 1 over K


@configured("decoder")
class SetDecoder(nn.Module):
    """Decodes each slot at once, not place by place: a fifth of the cost of `MLPDecoder`.

    An MLP turns a slot into its mask logits at all places. The content of a slot is a polynomial of
    the place, {1, x, y, xy, x^2, y^2}, whose coefficients are an MLP of the slot; contents are
    mixed by the masks before the last linear layer.

    Args:
        slot_dim: width D of slots.
        width: channels C of the features.
        grid: (h, w) with h * w = N, the spatial shape of the features.
        hidden: width of the MLPs.
        content: width of the contents that are mixed.
    """

    powers: Tensor

    def __init__(
        self, slot_dim: int, width: int, grid: tuple[int, int], hidden: Positive = 512, content: Positive = 128
    ) -> None:
        super().__init__()
        places = places_of(grid)
        y, x = places.T
        powers = torch.stack([torch.ones_like(x), x, y, x * y, x * x, y * y])
        self.register_buffer("powers", powers, persistent=False)  # [6, N]
        self.to_masks = _layers(slot_dim, hidden, len(places))
        self.to_content = _layers(slot_dim, hidden, len(powers) * content)
        self.to_features = nn.Linear(content, width)

    def forward(self, slots: Tensor, target: Tensor) -> Decoded:
        """Features [B, N, C] and masks [B, K, N] of slots [B, K, D]; the `target` is not used."""
        masks = torch.softmax(self.to_masks(slots).float(), dim=1)
        content = self.to_content(slots).unflatten(2, (len(self.powers), -1))  # [B, K, 6, content]
        mixed = (masks[:, :, None] * self.powers).flatten(1, 2).transpose(1, 2) @ content.flatten(1, 2).to(masks.dtype)
        return self.to_features(mixed), masks


@configured("decoder")
class MLPDecoder(nn.Module):
    """The MLP decoder of DINOSAUR (Seitzer et al. 2023, arXiv 2209.14860, section 3.2).

    A slot is broadcast to all places, a learned position is added, and an MLP gives features and a
    mask logit at each place.

    Args:
        slot_dim: width D of slots.
        width: channels C of the features.
        grid: (h, w) with h * w = N, the spatial shape of the features.
        hidden: width of the hidden layers.
        layers: number of linear layers.
    """

    def __init__(
        self, slot_dim: int, width: int, grid: tuple[int, int], hidden: Positive = 2048, layers: Positive = 4
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(1, 1, math.prod(grid), slot_dim))
        self.mlp = _layers(slot_dim, *[hidden] * (layers - 1), width + 1)

    def forward(self, slots: Tensor, target: Tensor) -> Decoded:
        """Features [B, N, C] and masks [B, K, N] of slots [B, K, D]; the `target` is not used."""
        found = self.mlp(slots[:, :, None] + self.position)
        masks = torch.softmax(found[..., -1].float(), dim=1)
        return (masks[..., None] * found[..., :-1]).sum(dim=1), masks


@configured("decoder")
class TransformerDecoder(nn.Module):
    """Predicts each feature from those before it and the slots (SLATE, arXiv 2110.11405).

    Its masks are the last layer's attention to slots. With `permutations`, training reads features
    in one of nine orders, each with a start token, so that slots, not neighbours, must explain them
    (SPOT, Kakogeorgiou et al. 2024, arXiv 2312.00648, section 3.3).

    Args:
        slot_dim: width D of slots.
        width: channels C of the features, and of the transformer.
        grid: (h, w) with h * w = N, the spatial shape of the features.
        layers: number of transformer blocks.
        heads: attention heads of each.
        permutations: read features by rows, columns, from each corner, and in a spiral.
    """

    orders: Tensor

    def __init__(
        self,
        slot_dim: int,
        width: int,
        grid: tuple[int, int],
        layers: Positive = 4,
        heads: Positive = 8,
        permutations: bool = False,
    ) -> None:
        super().__init__()
        orders = reading_orders(grid)
        self.register_buffer("orders", orders if permutations else orders[:1], persistent=False)
        self.start = nn.Parameter(0.02 * torch.randn(len(self.orders), 1, 1, width))
        self.from_features = nn.Sequential(nn.Linear(width, width, bias=False), nn.LayerNorm(width))
        self.from_slots = nn.Sequential(nn.Linear(slot_dim, width, bias=False), nn.LayerNorm(width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.last_norm = nn.LayerNorm(width)

    def forward(self, slots: Tensor, target: Tensor) -> Decoded:
        """Features [B, N, C] and masks [B, K, N], from slots [B, K, D] and the true features."""
        number = int(torch.randint(len(self.orders), (), device="cpu")) if self.training else 0
        order, start = self.orders[number], self.start[number].expand(len(slots), -1, -1)
        x = self.from_features(torch.cat([start.to(target), target[:, order[:-1]]], dim=1))
        slots, attention = self.from_slots(slots), x
        for block in self.blocks:
            x, attention = block(x, slots)
        back = order.argsort()
        return self.last_norm(x)[:, back], attention.float()[:, back].transpose(1, 2)


class _Block(nn.Module):
    """Attention to earlier places, attention to slots, MLP; each with a norm before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.to_places = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        self.to_slots = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        self.mlp = _layers(width, 4 * width, width)

    def forward(self, x: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The next x [B, N, C], and the attention to slots [B, N, K], mean over heads."""
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        y = self.norms[0](x)
        x = x + self.to_places(y, y, y, attn_mask=later, need_weights=False)[0]
        found, attention = self.to_slots(self.norms[1](x), slots, slots)
        x = x + found
        return x + self.mlp(self.norms[2](x)), attention


FEATURE_DECODERS: dict[str, Callable[..., nn.Module]] = {
    "set-at-once": SetDecoder,
    "mlp": MLPDecoder,
    "transformer": TransformerDecoder,
}


class FeatureSlotEncoder(nn.Module):
    """Images [B, 3, R, R] in [0, 1] to slots: frozen features, places, MLP and slot attention.

    Attributes:
        grid: (h, w), the spatial shape of the N = h x w features that the slots attend to.
    """

    places: Tensor

    def __init__(
        self,
        resolution: int,
        features: Mapping[str, Any],
        frequencies: int,
        slot_attention: Mapping[str, Any],
        temperature: float,
        spread: float,
    ) -> None:
        super().__init__()
        check_arguments("features", FrozenFeatures, features, reserved={"resolution"})
        self.resolution = resolution
        self.backbone = FrozenFeatures(resolution, **features)
        self.grid = self.backbone.grid
        angles = torch.pi * places_of(self.grid)[:, :, None] * 2.0 ** torch.arange(frequencies)
        waves = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
        self.register_buffer("places", waves, persistent=False)  # [N, 4 frequencies]
        check_arguments("slot_attention", SlotAttention, slot_attention, reserved={"feature_dim"})
        dim = slot_attention.get("dim", 64)
        width = self.backbone.width + waves.shape[1]
        self.mlp = nn.Sequential(nn.LayerNorm(width), *_layers(width, max(width, dim), dim))
        self.slot_attention = SlotAttention(feature_dim=dim, **slot_attention)
        self._affinity = (temperature, spread)
        self._groups: dict[bytes, Tensor] = {}

    def forward(
        self, images: Tensor, generator: Generators = None, begin: Begin | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots [B, K, D] and attention [B, T, K, N] of images [B, 3, R, R] in [0, 1]."""
        return self.grouped(self.features(images), generator, begin)

    def features(self, images: Tensor, raw: Tensor | None = None) -> Tensor:
        """The features [B, N, C] that the slots group; see `FrozenFeatures.forward`."""
        check_images(images, self.resolution, self.slot_attention.start.dtype, values=not self.training)
        return self.backbone(images, raw)

    def grouped(
        self, features: Tensor, generator: Generators = None, begin: Begin | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots and attention of the `features`."""
        places = self.places.expand(len(features), -1, -1)
        inputs = self.mlp(torch.cat([features, places.to(features)], dim=2))
        wanted = begin is None and self.slot_attention.initialisation == "groups"
        return self.slot_attention(inputs, generator, begin, self.starting_groups(features) if wanted else None)

    @torch.compiler.disable()
    def starting_groups(self, features: Tensor) -> Tensor:
        """Spectral groups [B, K, N] of the `features`, as of `FeatureGrouping`.

        In training, those of an image are found once and kept.
        """
        found = []
        for one in F.normalize(features.float(), dim=2).cpu():
            key = hashlib.sha256(one.numpy().tobytes()).digest()
            if (groups := self._groups.get(key)) is None:
                places, count = places_of(self.grid) / 2, self.slot_attention.slots
                groups = spectral_groups(one, places, count, *self._affinity).half()
                if self.training and len(self._groups) < MOST_KEPT:
                    self._groups[key] = groups
            found.append(groups.float())
        return torch.stack(found).to(features.device)


@configured("model")
class FeatureAutoencoder(SlotModelBase):
    """Groups the features of a frozen network into slots, from which a decoder predicts them.

    It learns objects of real photographs, where colours teach little (DINOSAUR, Seitzer et al.
    2023, arXiv 2209.14860). Its loss is an error of features, never of colours, and it cannot
    paint: `compose` and `edit` need another model.

    Args:
        resolution: side R of the images.
        features: arguments of `FrozenFeatures`: the network, its layer, and what is kept of it.
        frequencies: number of waves on each axis that tell slot attention places; 0: none.
        slot_attention: arguments of `SlotAttention`.
        decoder: `{"kind": "set-at-once" | "mlp" | "transformer", ...}` and its arguments.
        superpixels: masks that are averaged over superpixels, so that they have the image's edges:
            the decoder's ("masks"), those of slot attention ("attention"), or none.
        temperature: of the groups that slots start from with slot_attention.initialisation
            "groups"; see `FeatureGrouping`.
        spread: of the same groups.

    Raises:
        CheckpointError: the frozen network is not installed.
        ConfigError: an unknown kind or key, or a value out of range; the message names the key.

    Example:
        >>> model = FeatureAutoencoder(resolution=64, slot_attention={"slots": 3}).eval()
        >>> output = model(torch.rand(2, 3, 64, 64))
        >>> output.slots.shape, output.masks.shape, output.predicted.shape
        (torch.Size([2, 3, 64]), torch.Size([2, 3, 64, 64]), torch.Size([2, 4, 192]))
    """

    kind = "feature-autoencoder"
    finer_masks = "masks"
    encoder: FeatureSlotEncoder  # type: ignore[assignment]

    def __init__(
        self,
        resolution: Resolution = 448,
        features: Mapping[str, Any] | None = None,
        frequencies: int = 3,
        slot_attention: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        superpixels: Literal["masks", "attention"] | None = None,
        temperature: Annotated[float, Field(gt=0)] = 0.055,
        spread: Annotated[float, Field(gt=0)] = 0.25,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "kind": self.kind,
            "resolution": resolution,
            "features": dict(features or {}),
            "frequencies": frequencies,
            "slot_attention": dict(slot_attention or {}),
            "decoder": dict(decoder or {"kind": "set-at-once"}),
            "superpixels": superpixels,
            "temperature": temperature,
            "spread": spread,
        }
        self.superpixels = superpixels
        names = ("features", "frequencies", "slot_attention", "temperature", "spread")
        self.encoder = FeatureSlotEncoder(resolution, *(self.config[name] for name in names))  # type: ignore[assignment]
        supplied = {"width": self.encoder.backbone.width, "grid": self.encoder.grid}
        slot_dim = self.encoder.slot_attention.dim
        self.decoder = build("decoder", FEATURE_DECODERS, self.config["decoder"], slot_dim=slot_dim, **supplied)
        self.apply(initialise)

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        masks = "decoder masks, resized bilinearly, argmax"
        if self.superpixels is not None:
            source = {"masks": "decoder masks", "attention": "attention masks"}[self.superpixels]
            masks = f"superpixel masks, {source} averaged over superpixels, argmax"
        return {**self.described(masks), "features": self.encoder.backbone.describe()}

    def losses(self, output: SlotFeatureOutput, images: Tensor) -> Tensor:
        """Squared error of the predicted features, mean over values: float32 [B]."""
        return output.feature_errors()

    def forward(
        self, images: Tensor, generator: Generators = None, raw: Tensor | None = None, begin: Begin | None = None
    ) -> SlotFeatureOutput:
        """Slots, masks and predicted features of images [B, 3, R, R] in [0, 1].

        In training the masks have the size of the features, [B, K, h, w], and `reconstruction` is
        empty, [B, 3, 0, 0].

        Args:
            images: [B, 3, R, R] in [0, 1]; ValueError for another shape.
            generator: one CPU generator, or a list with one per image, for slots that are drawn.
            raw: the frozen network's features `encoder.backbone.raw(images)`, if cached.
            begin: see `SlotAttention.forward`.
        """
        features = self.encoder.features(images, raw)
        slots, attention = self.encoder.grouped(features, generator, begin)
        predicted, masks = self.decoder(slots, features)
        grid, painted, shown = self.encoder.grid, images.new_empty(len(images), 3, 0, 0), {}
        masks = masks.unflatten(2, grid)
        if not self.training:
            colours = (feature_colours(features, one.float()) for one in (features, predicted))
            large = (F.interpolate(one.transpose(1, 2).unflatten(2, grid), images.shape[2:]) for one in colours)
            shown["ceiling"], painted = large
            masks = self._resized(masks, attention[:, -1].float().unflatten(2, grid), images)
        return (SlotFeatureOutput if self.superpixels is None else SuperpixelOutput)(
            slots=slots,
            attention=attention,
            attention_grid=grid,
            masks=masks,
            reconstruction=painted,
            features=features,
            predicted=predicted,
            **shown,
        )

    def segment(self, images: Tensor, generator: Generators = None, begin: Begin | None = None) -> SlotFeatureOutput:
        """The same as `forward`."""
        return self(images, generator, begin=begin)

    def _resized(self, masks: Tensor, attention: Tensor, images: Tensor) -> Tensor:
        chosen = attention if self.superpixels == "attention" else masks
        maps = F.interpolate(chosen, images.shape[2:], mode="bilinear")
        if self.superpixels is None:
            return maps
        pairs = zip(maps.cpu(), images.cpu(), strict=True)
        return torch.stack([snapped(soft, image) for soft, image in pairs]).to(maps.device)


def places_of(grid: tuple[int, int]) -> Tensor:
    """The centres of the cells of a grid, float32 [h * w, 2]: y and x in (-1, 1), row by row.

    Example:
        >>> places_of((1, 2))
        tensor([[ 0.0000, -0.5000],
                [ 0.0000,  0.5000]])
    """
    rows, columns = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in grid)
    return torch.cartesian_prod(rows, columns)


def reading_orders(grid: tuple[int, int]) -> Tensor:
    """Nine orders of the cells of a grid, int64 [9, h * w]: lines from each corner, a spiral.

    Example:
        >>> reading_orders((2, 2))[[0, 4, 8]]
        tensor([[0, 1, 2, 3],
                [0, 2, 1, 3],
                [2, 3, 1, 0]])
    """
    cells = torch.arange(math.prod(grid)).view(grid)
    rows = [cells, cells.flip(0), cells.flip(1), cells.flip(0, 1)]
    spiral = []
    while cells.numel():  # from the outside to the inside
        spiral.append(cells[0])
        cells = cells[1:].rot90()
    both = [one.flatten() for one in (*rows, *(one.T for one in rows))]
    return torch.stack([*both, torch.cat(spiral).flip(0)])


def _layers(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width, out in itertools.pairwise(widths):
        layers += [nn.Linear(width, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
