"""Random numbers that are a function of (seed, scene, attempt, use), with no generator state to share or to order."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(value: Tensor) -> Tensor:
    """A 32-bit integer hash (Wellons' lowbias32) on int64 tensors that hold 0..2³²-1."""
    value = value ^ (value >> 16)
    value = (value * 0x7FEB352D) & _MASK
    value = value ^ (value >> 15)
    value = (value * 0x846CA68B) & _MASK
    return value ^ (value >> 16)


def scene_keys(seed: int, indices: Tensor, attempts: Tensor) -> Tensor:
    """One 32-bit key per scene from the seed, its index and the number of the attempt (int64 tensors [B])."""
    key = _mix(torch.full_like(indices, (seed & _MASK) ^ 0x5CE7E5))
    key = _mix(key ^ ((seed >> 32) & _MASK))
    key = _mix(key ^ (indices & _MASK))
    key = _mix(key ^ ((indices >> 32) & _MASK) ^ 0x51D)
    return _mix(key ^ (attempts & _MASK) ^ 0xA77E)


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Float32 [B, count] in [0, 1) for keys [B]; each `stream` has its own; a longer row begins like a shorter one."""
    counter = torch.arange(count, device=keys.device) + (stream << 16)
    bits = _mix(_mix(keys[:, None] ^ _mix(counter)) ^ counter)
    return (bits >> 8).to(torch.float32) * (1.0 / (1 << 24))


def lattice(x: Tensor, y: Tensor, stream: int) -> Tensor:
    """Float32 in [0, 1) at integer lattice points (int64 tensors that broadcast)."""
    bits = _mix(_mix((x & _MASK) ^ (stream * 0x9E37 + 0x79B9)) ^ (y & _MASK))
    return (bits >> 8).to(torch.float32) * (1.0 / (1 << 24))
