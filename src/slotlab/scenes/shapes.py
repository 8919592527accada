"""The solids: for each shape its extent, ray intersection, surface normal and signed distance.

All functions work in the shape's own frame (z up, the solid centred so that it rests on z =
-`half_height`, its size 1) on separate x, y, z tensors of any shapes that broadcast together. They
use only operations that IEEE arithmetic rounds exactly (+ − × ÷ √, comparisons), so that a ray's
result does not depend on its place in a tensor; and arithmetic in place of masks (`step`,
`penalty`), which is several times as fast on a CPU. Rays come from outside, and from above the
ground.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]
MISS = 1e8  # distances from here on are misses
_FAR = 1e9

_CUBE = 1 / math.sqrt(2)  # half of a side; CLEVR shrinks cubes by this, so that their diagonal is the nominal size
_CYLINDER_RADIUS, _CYLINDER_HALF = 0.85, 0.85
_CONE_RADIUS, _CONE_HALF = 1.0, 1.0
_TORUS_RING, _TORUS_TUBE = 0.75, 0.37
_TORUS_RADIUS = _TORUS_RING + _TORUS_TUBE
_CAPSULE_HALF, _CAPSULE_RADIUS = 0.52, 0.58
_CAPSULE_LENGTH = _CAPSULE_HALF + _CAPSULE_RADIUS
_ELLIPSOID = (1.1, 0.8, 0.68)
_DOME_RADIUS = 1.1


@dataclass(frozen=True)
class Shape:
    """One solid.

    `intersect(origin, direction)` gives the distance to the first hit from outside, in lengths of
    `direction`, and over `MISS` for a miss.
    """

    extent: tuple[float, float, float]  # half sizes along x, y, z of its box
    footprint: float  # radius of the circle around z that holds it
    intersect: Callable[[Vector, Vector], Tensor]
    normal: Callable[[Vector], Vector]  # outward unit normal at a surface point
    distance: Callable[[Vector], Tensor]  # signed distance, or a lower bound of it with the same sign
    round: bool = False  # the ball that holds it has the footprint's radius
    steepness: float = 1.0  # least growth of `distance` per length outside of the box, above the ground

    @property
    def half_height(self) -> float:
        """Height of the centre above the ground at size 1."""
        return self.extent[2]

    @property
    def radius(self) -> float:
        """Radius of the ball around the centre that holds it."""
        x, y, z = self.extent
        return self.footprint if self.round else (max(x, y, self.footprint) ** 2 + z * z) ** 0.5


def dot(a: Sequence[Tensor] | Sequence[float], b: Sequence[Tensor]) -> Tensor:
    """Scalar product, summed in a fixed order."""
    return (a[0] * b[0]).add_(a[1] * b[1]).add_(a[2] * b[2])


def normalise(a: Sequence[Tensor]) -> Vector:
    """`a` at length 1."""
    scale = dot(a, a).add_(1e-20).sqrt_().reciprocal_()
    return a[0] * scale, a[1] * scale, a[2] * scale


def along(
    origin: Sequence[Tensor], direction: Sequence[Tensor], distance: Tensor, into: Sequence[Tensor | None] = (None,) * 3
) -> Vector:
    """The point `origin + distance * direction`; overwrites `into`, if given."""
    x, y, z = (
        torch.mul(distance, speed, out=out).add_(start)
        for start, speed, out in zip(origin, direction, into, strict=True)
    )
    return x, y, z


def step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, as float32."""
    return x.sign().clamp_(min=0)


def penalty(x: Tensor) -> Tensor:
    """0 where x >= 0, else a distance that counts as a miss."""
    return (x * -1e30).clamp_(0, _FAR)


def largest(a: Vector) -> tuple[Tensor, Tensor]:
    """1 where x is the largest component in size, and 1 where y is, else 0."""
    x, y, z = (part.abs() for part in a)
    return step(x - torch.maximum(y, z)), step(y - torch.maximum(x, z))


def _near_root(a: Tensor, half_b: Tensor, c: Tensor) -> Tensor:
    """Smaller root of a t² + 2 half_b t + c = 0 (a > 0), or a miss."""
    discriminant = (half_b * half_b).sub_(a * c)
    missed = penalty(discriminant)
    return missed.sub_(discriminant.clamp_(min=0).sqrt_().add_(half_b).div_(a))


def _length(*parts: Tensor) -> Tensor:
    return reduce(torch.Tensor.add_, [part * part for part in parts]).sqrt_()


def _largest(first: Tensor, *others: Tensor) -> Tensor:
    """The largest of each place; overwrites `first`."""
    for other in others:
        torch.maximum(first, other, out=first)
    return first


# --- sphere and ellipsoid ---


def _sphere_intersect(o: Vector, d: Vector, radius: float = 1.0) -> Tensor:
    return _near_root(dot(d, d), dot(o, d), dot(o, o) - radius * radius)


def _ellipsoid_intersect(o: Vector, d: Vector) -> Tensor:
    rx, ry, rz = _ELLIPSOID
    return _sphere_intersect((o[0] / rx, o[1] / ry, o[2] / rz), (d[0] / rx, d[1] / ry, d[2] / rz))


def _ellipsoid_normal(p: Vector) -> Vector:
    rx, ry, rz = _ELLIPSOID
    return normalise((p[0] / (rx * rx), p[1] / (ry * ry), p[2] / (rz * rz)))


def _ellipsoid_distance(p: Vector) -> Tensor:
    rx, ry, rz = _ELLIPSOID
    reach = _length(p[0] / rx, p[1] / ry, p[2] / rz)
    slope = _length(p[0] / (rx * rx), p[1] / (ry * ry), p[2] / (rz * rz))
    return (reach - 1).mul_(reach).div_(slope.add_(1e-6))


# --- convex solids bounded by planes ---

Plane = tuple[tuple[float, float, float], float]  # outward unit normal n and its offset: inside is n·p <= offset


def _polyhedron(planes: list[Plane], extent: tuple[float, float, float], steepness: float) -> Shape:
    def intersect(o: Vector, d: Vector) -> Tensor:
        near, far = torch.full_like(o[0], -torch.inf), torch.full_like(o[0], torch.inf)
        for outward, offset in planes:
            speed = dot(outward, d)
            away = step(speed).mul_(_FAR)
            distance = (offset - dot(outward, o)) / speed.add_(1e-12)
            near = torch.maximum(near, distance - away)
            far = torch.minimum(far, distance.add_(away.neg_().add_(_FAR)))
        return penalty(far - near).add_(near)

    def normal(p: Vector) -> Vector:
        nx = ny = nz = torch.zeros_like(p[0])
        best = nx - _FAR
        for outward, offset in planes:
            height = dot(outward, p) - offset
            outermost = step(height - best)
            best = torch.maximum(best, height)
            nx, ny, nz = (n + outermost * (part - n) for n, part in zip((nx, ny, nz), outward, strict=True))
        return nx, ny, nz

    def distance(p: Vector) -> Tensor:
        return _largest(*(dot(outward, p).sub_(offset) for outward, offset in planes))

    return Shape(extent, extent[0], intersect, normal, distance, steepness=steepness)


def _walls(sides: int, up: float, out: float, offset: float) -> list[Plane]:
    """Planes around a regular base, whose normals point `up` and `out`."""
    turns = [2 * math.pi * (side + 0.5) / sides for side in range(sides)]
    return [((out * math.cos(a), out * math.sin(a), up), offset) for a in turns]


def _pyramid(sides: int, radius: float, half: float) -> Shape:
    """An upright pyramid from z = -half to half."""
    apothem = radius * math.cos(math.pi / sides)
    slant = math.hypot(2 * half, apothem)
    up, out = apothem / slant, 2 * half / slant
    planes = [*_walls(sides, up, out, up * half), ((0.0, 0.0, -1.0), half)]
    return _polyhedron(planes, (radius, radius, half), steepness=up * 0.99)


def _prism(sides: int, radius: float, half: float) -> Shape:
    """An upright prism from z = -half to half."""
    walls = _walls(sides, 0.0, 1.0, radius * math.cos(math.pi / sides))
    lids: list[Plane] = [((0.0, 0.0, 1.0), half), ((0.0, 0.0, -1.0), half)]
    return _polyhedron(walls + lids, (radius, radius, half), steepness=0.85)


# --- cube ---


def slabs(o: Vector, d: Vector, extent: Sequence[float] | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave a box of half sizes `extent`; they miss it if they leave first."""
    near, far = [], []
    for position, speed, reach in zip(o, d, extent, strict=True):
        inverse = (speed + 1e-12).reciprocal_()
        middle, half = -position * inverse, inverse.abs_().mul_(reach)
        near.append(middle - half)
        far.append(middle.add_(half))
    return reduce(torch.maximum, near), reduce(torch.minimum, far)


def _cube_intersect(o: Vector, d: Vector) -> Tensor:
    near, far = slabs(o, d, (_CUBE, _CUBE, _CUBE))
    return penalty(far - near).add_(near)


def _cube_normal(p: Vector) -> Vector:
    on_x, on_y = largest(p)
    return p[0].sign() * on_x, p[1].sign() * on_y, p[2].sign() * (1 - on_x - on_y)


def _cube_distance(p: Vector) -> Tensor:
    return _largest(*(part.abs() for part in p)).sub_(_CUBE)


# --- cylinder, cone, dome ---


def _cylinder_intersect(o: Vector, d: Vector) -> Tensor:
    a = (d[0] * d[0]).add_(d[1] * d[1]).add_(1e-12)
    b = (o[0] * d[0]).add_(o[1] * d[1])
    wall = _near_root(a, b, o[0] * o[0] + o[1] * o[1] - _CYLINDER_RADIUS * _CYLINDER_RADIUS)
    wall = wall + penalty(_CYLINDER_HALF - (wall * d[2]).add_(o[2]).abs_())
    lid = (_CYLINDER_HALF - o[2]) / (d[2] + 1e-12)
    x, y = (lid * d[0]).add_(o[0]), (lid * d[1]).add_(o[1])
    return torch.minimum(wall, lid.add_(penalty(_CYLINDER_RADIUS * _CYLINDER_RADIUS - x.mul_(x).add_(y.mul_(y)))))


def _cylinder_normal(p: Vector) -> Vector:
    radial = _length(p[0], p[1])
    lid = step((p[2].abs() - _CYLINDER_HALF) - (radial - _CYLINDER_RADIUS))
    scale = (1 - lid) / (radial + 1e-9)
    return p[0] * scale, p[1] * scale, p[2].sign() * lid


def _cylinder_distance(p: Vector) -> Tensor:
    return _largest(_length(p[0], p[1]).sub_(_CYLINDER_RADIUS), p[2].abs().sub_(_CYLINDER_HALF))


_CONE_SLOPE = _CONE_RADIUS / (2 * _CONE_HALF)
_CONE_OUT = 1 / math.hypot(1.0, _CONE_SLOPE)


def _cone_intersect(o: Vector, d: Vector) -> Tensor:
    k2 = _CONE_SLOPE * _CONE_SLOPE
    oz = _CONE_HALF - o[2]  # distance below the apex
    a = (d[0] * d[0]).add_(d[1] * d[1]).sub_((k2 * d[2]).mul_(d[2])).add_(1e-9)
    b = (o[0] * d[0]).add_(o[1] * d[1]).add_(k2 * oz * d[2])
    c = o[0] * o[0] + o[1] * o[1] - k2 * oz * oz
    discriminant = (b * b).sub_(a * c)
    root, missed = discriminant.clamp(min=0).sqrt_(), penalty(discriminant)
    hits = []
    for t in ((-b).sub_(root).div_(a), root.sub_(b).div_(a)):
        below = oz - t * d[2]
        hits.append(t.add_(penalty(torch.minimum(below, 2 * _CONE_HALF - below))))
    return torch.minimum(*hits).add_(missed)


def _cone_normal(p: Vector) -> Vector:
    scale = _CONE_OUT / (_length(p[0], p[1]) + 1e-9)
    return p[0] * scale, p[1] * scale, torch.full_like(p[2], _CONE_OUT * _CONE_SLOPE)


def _cone_distance(p: Vector) -> Tensor:
    flank = _length(p[0], p[1]).sub_((_CONE_HALF - p[2]).mul_(_CONE_SLOPE)).mul_(_CONE_OUT)
    return _largest(flank, p[2].abs().sub_(_CONE_HALF))


def _dome_intersect(o: Vector, d: Vector) -> Tensor:
    # The dome's frame is centred at half its height; the sphere's centre is on its floor.
    z = o[2] + _DOME_RADIUS / 2
    t = _sphere_intersect((o[0], o[1], z), d, _DOME_RADIUS)
    return t.add_(penalty((t * d[2]).add_(z)))


def _dome_normal(p: Vector) -> Vector:
    return normalise((p[0], p[1], p[2] + _DOME_RADIUS / 2))


def _dome_distance(p: Vector) -> Tensor:
    z = p[2] + _DOME_RADIUS / 2
    return _largest(_length(p[0], p[1], z).sub_(_DOME_RADIUS), -z)


# --- capsule and torus ---


def _from_axis(p: Vector) -> Vector:
    """Offset from the nearest point of the capsule's axis."""
    return p[0] - p[0].clamp(-_CAPSULE_HALF, _CAPSULE_HALF), p[1], p[2]


def _capsule_intersect(o: Vector, d: Vector) -> Tensor:
    r2 = _CAPSULE_RADIUS * _CAPSULE_RADIUS
    a = (d[1] * d[1]).add_(d[2] * d[2]).add_(1e-12)
    wall = _near_root(a, (o[1] * d[1]).add_(o[2] * d[2]), o[1] * o[1] + o[2] * o[2] - r2)
    best = wall + penalty(_CAPSULE_HALF - (wall * d[0]).add_(o[0]).abs_())
    dd = dot(d, d)
    for end in (-_CAPSULE_HALF, _CAPSULE_HALF):
        start = (o[0] - end, o[1], o[2])
        best = torch.minimum(best, _near_root(dd, dot(start, d), dot(start, start) - r2))
    return best


def _capsule_distance(p: Vector) -> Tensor:
    return _length(*_from_axis(p)).sub_(_CAPSULE_RADIUS)


def _torus_distance(p: Vector) -> Tensor:
    return _length(_length(p[0], p[1]).sub_(_TORUS_RING), p[2]).sub_(_TORUS_TUBE)


_TORUS_STEPS = 24
_TORUS_STRIDE = 0.015  # at least, until the last steps: rays that skim one side must get to the other


def _torus_intersect(o: Vector, d: Vector) -> Tensor:
    """Marches by the signed distance, from the entry into the slab of the torus to the exit."""
    inverse = (d[2] + 1e-12).reciprocal_()
    middle, half = -o[2] * inverse, inverse.abs_().mul_(_TORUS_TUBE)
    dd = dot(d, d)
    b, c = dot(o, d), dot(o, o) - _TORUS_RADIUS * _TORUS_RADIUS
    discriminant = (b * b).sub_(dd * c)
    root = discriminant.clamp(min=0).sqrt_()
    near = torch.maximum(middle - half, (-b).sub_(root).div_(dd)).clamp_(min=0)
    far = torch.minimum(middle.add_(half), root.sub_(b).div_(dd))
    pace = dd.sqrt_().reciprocal_()
    # Only rays that come through slab and ball march; the bounds keep each that could hit.
    through = (discriminant > -1e-3) & (near < far + 0.05 * pace)
    out = torch.full_like(near, _FAR)
    chosen = torch.nonzero(through.view(-1)).squeeze(1)
    (ox, oy, oz), (dx, dy, dz) = (
        [part.expand_as(near).reshape(-1).index_select(0, chosen) for part in of] for of in (o, d)
    )
    near, far, pace, discriminant = (part.view(-1).index_select(0, chosen) for part in (near, far, pace, discriminant))
    t, gap = near, near
    for turn in range(_TORUS_STEPS):
        gap = _torus_distance(along((ox, oy, oz), (dx, dy, dz), t))
        stride = gap if turn >= _TORUS_STEPS - 5 else torch.maximum(gap, step(gap).mul_(_TORUS_STRIDE))
        t = (stride * pace).add_(t)
    missed = penalty(torch.minimum(discriminant, 8e-3 - gap)).add_(penalty((pace * 0.02).add_(far).sub_(t)))
    out.view(-1).index_copy_(0, chosen, t.clamp_(0, 100).add_(missed))
    return out


def _torus_normal(p: Vector) -> Vector:
    radial = _length(p[0], p[1]) + 1e-9
    scale = (radial - _TORUS_RING) / radial
    return normalise((p[0] * scale, p[1] * scale, p[2]))


SHAPES: dict[str, Shape] = {
    "sphere": Shape((1.0, 1.0, 1.0), 1.0, _sphere_intersect, normalise, lambda p: _length(*p).sub_(1), True),
    "cube": Shape((_CUBE, _CUBE, _CUBE), 1.0, _cube_intersect, _cube_normal, _cube_distance),
    "cylinder": Shape((_CYLINDER_RADIUS, _CYLINDER_RADIUS, _CYLINDER_HALF), _CYLINDER_RADIUS,
                      _cylinder_intersect, _cylinder_normal, _cylinder_distance),
    "cone": Shape((_CONE_RADIUS, _CONE_RADIUS, _CONE_HALF), _CONE_RADIUS,
                  _cone_intersect, _cone_normal, _cone_distance, steepness=0.85),
    "torus": Shape((_TORUS_RADIUS, _TORUS_RADIUS, _TORUS_TUBE), _TORUS_RADIUS,
                   _torus_intersect, _torus_normal, _torus_distance, round=True),
    "capsule": Shape((_CAPSULE_LENGTH, _CAPSULE_RADIUS, _CAPSULE_RADIUS), _CAPSULE_LENGTH,
                     _capsule_intersect, lambda p: normalise(_from_axis(p)), _capsule_distance),
    "ellipsoid": Shape(_ELLIPSOID, _ELLIPSOID[0], _ellipsoid_intersect, _ellipsoid_normal, _ellipsoid_distance,
                       round=True, steepness=0.6),
    "dome": Shape((_DOME_RADIUS, _DOME_RADIUS, _DOME_RADIUS / 2), _DOME_RADIUS,
                  _dome_intersect, _dome_normal, _dome_distance),
    "pyramid": _pyramid(4, 1.25, 0.95),
    "tetrahedron": _pyramid(3, 1.25, 0.88),
    "prism": _prism(6, 0.95, 0.6),
}  # fmt: skip
NAMES: tuple[str, ...] = tuple(SHAPES)
SOLIDS: tuple[Shape, ...] = tuple(SHAPES.values())
EXTENTS = torch.tensor([shape.extent for shape in SOLIDS])  # [S, 3]
FOOTPRINTS = torch.tensor([shape.footprint for shape in SOLIDS])  # [S]
RADII = torch.tensor([shape.radius for shape in SOLIDS])  # [S]
STEEPNESS = torch.tensor([shape.steepness for shape in SOLIDS])  # [S]
