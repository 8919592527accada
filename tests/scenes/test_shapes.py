import pytest
import torch

from slotlab.scenes.shapes import MISS, SHAPES, along, dot, normalise

RAYS = 4000


def _rays(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, RAYS, generator=generator)
    start = start / start.norm(dim=0) * 6
    start[2] = start[2].abs() + 1  # rays come from above the ground
    aim = (torch.rand(3, RAYS, generator=generator) * 2 - 1) * torch.tensor(shape.extent)[:, None]
    return tuple(start), tuple((aim - start) / 3)


@pytest.mark.parametrize("name", SHAPES)
def test_hits_lie_on_the_surface_and_are_the_first(name):
    shape = SHAPES[name]
    origin, direction = _rays(shape)
    t = shape.intersect(origin, direction)
    hit = t < MISS
    assert hit.float().mean() > 0.3
    point = along(origin, direction, t.clamp(max=100))
    assert shape.distance(point)[hit].abs().max() < 0.02
    # No sample of the way there lies inside; and where a ray misses, none at all does.
    for part in torch.linspace(0.3, 0.98, 30):
        assert (shape.distance(along(origin, direction, part * t.clamp(max=100)))[hit] > -0.01).all()
    for reach in torch.linspace(0.2, 6, 200):
        there = along(origin, direction, reach.expand(RAYS))
        above = (there[2] > -shape.half_height) & ~hit
        assert (shape.distance(there)[above] < -0.03).sum() <= 2  # a torus may lose a ray that skims it


@pytest.mark.parametrize("name", SHAPES)
def test_normals_are_unit_and_face_the_ray(name):
    shape = SHAPES[name]
    origin, direction = _rays(shape)
    t = shape.intersect(origin, direction)
    hit = t < MISS
    normal = shape.normal(along(origin, direction, t.clamp(max=100)))
    assert torch.allclose(dot(normal, normal)[hit], torch.ones(int(hit.sum())), atol=1e-3)
    facing = dot(normal, normalise(direction))[hit]
    assert (facing < 0.05).float().mean() > 0.995


@pytest.mark.parametrize("name", SHAPES)
def test_solids_fill_their_box_and_rest_on_its_floor(name):
    shape = SHAPES[name]
    grid = torch.linspace(-1.3, 1.3, 53)
    x, y, z = torch.meshgrid(grid, grid, grid, indexing="ij")
    inside = shape.distance((x, y, z)) <= 0
    assert z[inside].min() == pytest.approx(-shape.half_height, abs=0.06)
    assert z[inside].max() == pytest.approx(shape.half_height, abs=0.11)
    assert ((x * x + y * y).sqrt()[inside]).max() <= shape.footprint + 1e-3
    assert (x.abs()[inside].max() <= shape.extent[0] + 1e-3) and (y.abs()[inside].max() <= shape.extent[1] + 1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_distances_change_as_the_renderers_bounds_suppose(name):
    shape, generator = SHAPES[name], torch.Generator().manual_seed(1)
    point = (torch.rand(3, 50_000, generator=generator) * 2 - 1) * 2.5
    way = torch.randn(3, 50_000, generator=generator) * 0.1
    here, there = shape.distance(tuple(point)), shape.distance(tuple(point + way))
    outside = here > 0.2
    assert ((here - there) / way.norm(dim=0))[outside].max() < 1.05
    beyond = (point.abs() - torch.tensor(shape.extent)[:, None]).amax(dim=0)
    counts = (beyond > 0) & (point[2] >= -shape.half_height)
    assert (here >= shape.steepness * beyond - 1e-5)[counts].all()
