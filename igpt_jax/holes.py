"""Holes: which positions of a picture or clip are unknown. Drawn at random, to train on and to evaluate.

Distances are in units of the longer side of a picture, so a hole looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Hole = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""(key, grid) -> bool [*grid], True where the position is unknown."""

STROKES, SEGMENTS = 2, 4  # of a brush; straight segments of a stroke
SEGMENT_LENGTH = (0.1, 0.4)
BRUSH_RADIUS = (0.05, 0.12)


def rectangle(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """A box; both ends of each side are uniform."""
    corners_2R = jax.random.uniform(key, (2, len(grid))) * jnp.array([grid])
    places = _indices(grid)
    return jnp.all((places >= _lift(corners_2R.min(axis=0), grid)) & (places < _lift(corners_2R.max(axis=0), grid)), -1)


def centre(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """The middle half of each side; nothing is drawn."""
    del key
    inside = [(jnp.arange(n) >= n // 4) & (jnp.arange(n) < n // 4 + (n + 1) // 2) for n in grid]
    return jnp.all(jnp.stack(jnp.meshgrid(*inside, indexing="ij")), axis=0)


def half_plane(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """One side of a line (of a plane, in a clip) of any direction, through a random position."""
    direction_key, through_key = jax.random.split(key)
    direction_R = jax.random.normal(direction_key, (len(grid),))
    through_R = jax.random.uniform(through_key, (len(grid),)) * jnp.array(_extent(grid))
    return _coordinates(grid) @ direction_R < through_R @ direction_R


def brush(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """A few strokes of a round brush: free-form, as a person would paint over a scratch or an object."""
    radius_key, *stroke_keys = jax.random.split(key, 1 + STROKES)
    radius = jax.random.uniform(radius_key, (), minval=BRUSH_RADIUS[0], maxval=BRUSH_RADIUS[1])
    ends = jnp.concatenate([_stroke(stroke_key, grid) for stroke_key in stroke_keys])
    places = _coordinates(grid)

    def nearer(nearest: jax.Array, segment_2R: jax.Array) -> tuple[jax.Array, None]:
        return jnp.minimum(nearest, _distance(places, *segment_2R)), None

    nearest, _ = jax.lax.scan(nearer, jnp.full(grid, jnp.inf), ends)
    return nearest <= radius


def scattered(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Every position by itself, all with the same probability, which is uniform."""
    rate_key, place_key = jax.random.split(key)
    return jax.random.uniform(place_key, grid) < jax.random.uniform(rate_key)


def frames(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Whole frames of a clip, all with the same probability, which is uniform."""
    return jnp.broadcast_to(scattered(key, grid[:1])[:, None, None], grid)


def any_hole(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """A hole of any kind; half of the time what is inside is known and the rest unknown."""
    kinds: list[Hole] = [rectangle, half_plane, brush, scattered]
    if len(grid) == 3:
        kinds.append(frames)
    kind_key, invert_key, key = jax.random.split(key, 3)
    branches = [lambda key, kind=kind: kind(key, grid) for kind in kinds]
    hole = jax.lax.switch(jax.random.randint(kind_key, (), 0, len(kinds)), branches, key)
    return hole ^ jax.random.bernoulli(invert_key)


def _stroke(key: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Ends of the segments of a stroke, [SEGMENTS, 2, R]. A stroke that would leave the grid is reflected."""
    start_key, direction_key, length_key = jax.random.split(key, 3)
    extent_R = jnp.array(_extent(grid))
    start_R = jax.random.uniform(start_key, extent_R.shape) * extent_R
    steps = jax.random.normal(direction_key, (SEGMENTS, len(grid)))
    steps /= jnp.linalg.norm(steps, axis=1, keepdims=True)
    steps *= jax.random.uniform(length_key, (SEGMENTS, 1), minval=SEGMENT_LENGTH[0], maxval=SEGMENT_LENGTH[1])
    unbounded = jnp.concatenate([start_R[None], start_R[None] + jnp.cumsum(steps, axis=0)])
    period = 2 * extent_R[None]
    points = jnp.minimum(unbounded % period, period - unbounded % period)
    return jnp.stack([points[:-1], points[1:]], axis=1)


def _distance(places: jax.Array, a_R: jax.Array, b_R: jax.Array) -> jax.Array:
    """Of every place [..., R] from the segment from a to b."""
    along_R = b_R - a_R
    from_a = places - _lift(a_R, places.shape[:-1])
    share = jnp.clip(from_a @ along_R / jnp.maximum(along_R @ along_R, 1e-12), 0, 1)
    return jnp.linalg.norm(from_a - share[..., None] * _lift(along_R, places.shape[:-1]), axis=-1)


def _extent(grid: tuple[int, ...]) -> tuple[float, ...]:
    """Sides in units of the longer side of a picture; all frames of a clip together are one unit."""
    longer = max(grid[-2:])
    return (1.0,) * (len(grid) - 2) + tuple(n / longer for n in grid[-2:])


def _coordinates(grid: tuple[int, ...]) -> jax.Array:
    """float32 [*grid, R]: where the middle of every position lies."""
    scale_R = jnp.array(_extent(grid)) / jnp.array(grid)
    return (_indices(grid) + 0.5) * _lift(scale_R, grid)


def _indices(grid: tuple[int, ...]) -> jax.Array:
    return jnp.stack(jnp.meshgrid(*map(jnp.arange, grid), indexing="ij"), axis=-1)


def _lift(x_R: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[R] -> [1, ..., 1, R], to be broadcast with [*shape, R]."""
    return x_R.reshape((1,) * len(shape) + x_R.shape)
