"""Ten art styles as image processing: RGBA drawing (128×128) → RGB picture (64×64), all float32 in
0…1.
"""

from __future__ import annotations

import numpy as np
from drawings import CANVAS, STYLES
from scipy import ndimage as nd
from scipy.spatial import cKDTree

N = CANVAS
YY, XX = np.mgrid[0:N, 0:N].astype(np.float32)


def smooth_noise(rng, sigma: float, channels: int = 1) -> np.ndarray:
    """Band-limited noise of unit deviation, (N, N) or (N, N, channels); wraps round."""
    cells = max(3, int(N / (2.5 * sigma)))
    grid = rng.normal(size=(cells, cells, channels)).astype(np.float32)
    big = nd.zoom(grid, (N / cells, N / cells, 1), order=3, mode="grid-wrap", grid_mode=True)[
        :N, :N
    ]
    big = (big - big.mean((0, 1))) / (big.std((0, 1)) + 1e-6)
    return big[..., 0] if channels == 1 else big


def luminance(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def over(rgba, background):
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + background * (1 - alpha)


def saturate(rgb, factor):
    grey = luminance(rgb)[..., None]
    return np.clip(grey + (rgb - grey) * factor, 0, 1)


def edges(rgba, sigma=1.0) -> np.ndarray:
    """Strength of drawn outlines, 0…1: from the alpha boundary and from inner colour changes."""
    body = over(rgba, np.float32(1.0))
    strength = np.zeros((N, N), np.float32)
    for channel in (*np.moveaxis(body, -1, 0), rgba[..., 3]):
        strength = np.maximum(strength, nd.gaussian_gradient_magnitude(channel, sigma))
    return np.clip(strength * 5 * sigma, 0, 1)


def warp(image, dx, dy):
    x = np.clip(XX + dx, 0, N - 1).astype(np.int32)
    y = np.clip(YY + dy, 0, N - 1).astype(np.int32)
    return image[y, x]


def down(rgb) -> np.ndarray:
    return np.clip(rgb.reshape(N // 2, 2, N // 2, 2, 3).mean((1, 3)), 0, 1).astype(np.float32)


def flat(rgba, rng):
    return down(over(rgba, np.float32(1.0) - rng.uniform(0, 0.04, 3).astype(np.float32)))


def van_gogh(rgba, rng):
    """Blue swirling ground with yellow stars; everything dragged along one swirling field of thick
    strokes.
    """
    field = smooth_noise(rng, 16)
    gy, gx = np.gradient(field)
    norm = np.hypot(gx, gy) + 1e-5
    vx, vy = -gy / norm, gx / norm  # along the contours: swirls
    tone = smooth_noise(rng, 9)[..., None]
    ground = np.array([0.10, 0.22, 0.58], np.float32) + tone * np.array(
        [0.06, 0.10, 0.14], np.float32
    )
    for _ in range(rng.integers(2, 5)):
        x, y, r = rng.uniform(0, N), rng.uniform(0, N), rng.uniform(5, 10)
        halo = np.exp(-((XX - x) ** 2 + (YY - y) ** 2) / (2 * r * r))[..., None]
        ground = ground * (1 - halo) + np.array([0.98, 0.86, 0.30], np.float32) * halo
    body = saturate(rgba[..., :3], 1.25) * np.array([1.0, 0.95, 0.85], np.float32) + np.array(
        [0.0, 0.0, 0.05], np.float32
    )
    picture = over(np.concatenate([body, rgba[..., 3:]], -1).astype(np.float32), ground)
    bristle = rng.normal(0, 1, (N, N, 1)).astype(np.float32)
    colour, stroke = np.zeros_like(picture), np.zeros_like(bristle)
    steps = 9
    for sign in (-1, 1):
        px, py = XX.copy(), YY.copy()
        for _ in range(steps):
            ix, iy = np.clip(px, 0, N - 1).astype(np.int32), np.clip(py, 0, N - 1).astype(np.int32)
            colour += picture[iy, ix]
            stroke += bristle[iy, ix]
            px += sign * vx[iy, ix] * 1.0
            py += sign * vy[iy, ix] * 1.0
    stroke = nd.gaussian_filter(stroke[..., 0], 0.8)
    stroke = (stroke / stroke.std())[..., None]
    return down(
        0.55 * picture
        + 0.45 * colour / (2 * steps)
        + stroke * np.array([0.09, 0.09, 0.07], np.float32)
    )


def monet(rgba, rng):
    """Lilac-green pond; the picture put together from flat-lying pastel dabs that differ plainly
    from their neighbours.
    """
    tone = smooth_noise(rng, 14)[..., None]
    ground = np.array([0.62, 0.78, 0.72], np.float32) + tone * np.array(
        [0.10, -0.01, 0.09], np.float32
    )
    picture = 0.26 + 0.72 * saturate(over(rgba, ground), 0.95)
    count = 700
    points = rng.uniform(0, N, (count, 2)).astype(np.float32)
    stretch = np.array([1.0, 1.7], np.float32)  # dabs lie flat
    _, owner = cKDTree(points * stretch).query(
        np.stack([YY, XX], -1).reshape(-1, 2)[:, :] * stretch
    )
    at = points.astype(np.int32).clip(0, N - 1)
    dabs = picture[at[:, 0], at[:, 1]] + rng.normal(0, 0.06, (count, 3)).astype(np.float32)
    dabs += rng.choice([0, 1], (count, 1), p=[0.8, 0.2]) * np.array([0.08, -0.03, 0.10], np.float32)
    return down(0.7 * dabs[owner].reshape(N, N, 3) + 0.3 * picture)


def doodle(rgba, rng):
    """Blue ballpoint outline, wobbling, scribbled over where the drawing is dark, on white ruled
    paper.
    """
    wobble = smooth_noise(rng, 8, 2) * 1.2
    drawn = warp(rgba, wobble[..., 0], wobble[..., 1])
    line = np.clip(edges(drawn, 1.2) * 1.6 - 0.3, 0, 1)
    dark = np.clip(1.0 - luminance(over(drawn, np.float32(1.0))), 0, 1)
    scribble = 0.5 + 0.5 * np.sin((XX + 1.6 * YY + smooth_noise(rng, 8) * 2) * (2 * np.pi / 13))
    line = np.maximum(line, np.clip(dark * 1.3 - 0.25, 0, 1) * (0.25 + 0.5 * scribble))
    paper = np.full((N, N, 3), 0.98, np.float32)
    phase = int(rng.integers(0, 16))
    rules = ((YY + phase) % 16 < 2)[..., None]
    paper = np.where(rules, np.array([0.72, 0.82, 0.95], np.float32), paper)
    margin = (np.abs(XX - 14) < 1.2)[..., None]
    paper = np.where(margin, np.array([0.97, 0.66, 0.70], np.float32), paper)
    ink = np.array([0.10, 0.14, 0.62], np.float32)
    return down(paper * (1 - line[..., None]) + ink * line[..., None])


def neon(rgba, rng):
    """Glowing tubes on near-black, around a body lit dimly in its own colours."""
    calm = np.concatenate(
        [nd.gaussian_filter(rgba[..., :3], (1.5, 1.5, 0)), rgba[..., 3:]], -1
    )  # fewer, clearer inner tubes
    line = np.clip(edges(calm, 1.4) * 1.5 - 0.35, 0, 1)
    pairs = (
        ([1.0, 0.15, 0.75], [0.1, 0.95, 1.0]),
        ([0.15, 1.0, 0.55], [1.0, 0.2, 0.9]),
        ([0.2, 0.9, 1.0], [0.75, 0.3, 1.0]),
    )
    a, b = pairs[int(rng.integers(len(pairs)))]
    mix = np.clip((YY / N + 0.3 * smooth_noise(rng, 20)), 0, 1)[..., None]
    colour = np.array(a, np.float32) * mix + np.array(b, np.float32) * (1 - mix)
    glow = nd.gaussian_filter(line, 5)[..., None] * 1.2
    ground = np.array([0.04, 0.02, 0.09], np.float32)
    body = saturate(rgba[..., :3], 1.3) * rgba[..., 3:] * 0.42
    return down(
        ground
        + body * (1 - 0.6 * line[..., None])
        + colour * glow * 0.45
        + line[..., None] * (0.7 * colour + 0.2)
    )


def sketch(rgba, rng):
    """Grey hatching and dark contour on cream paper."""
    tone = luminance(over(rgba, np.float32(1.0)))
    jitter = smooth_noise(rng, 6) * 0.8
    hatch = np.sin((XX + YY + jitter) * (2 * np.pi / 11))  # coarse enough for latents of 16×16
    dark = np.clip(1.0 - tone, 0, 1)
    shade = np.clip(dark * (0.85 + 0.16 * hatch), 0, 0.8)
    line = np.clip(edges(rgba, 1.1) * 1.6 - 0.2, 0, 1)
    lead = np.clip(shade + 0.75 * line, 0, 0.92)[..., None]
    grain = rng.normal(0, 0.015, (N, N, 1)).astype(np.float32)
    paper = np.array([0.95, 0.92, 0.83], np.float32) + grain
    return down(paper * (1 - lead) + np.array([0.16, 0.16, 0.17], np.float32) * lead)


def pixel(rgba, rng):
    """A 16×16 sprite with few colours on a dark teal playfield."""
    ground = np.array([[0.10, 0.36, 0.40], [0.16, 0.30, 0.48], [0.14, 0.40, 0.30]], np.float32)[
        int(rng.integers(3))
    ]
    cells = 16
    step = N // cells
    blocks = rgba.reshape(cells, step, cells, step, 4)
    alpha = blocks[..., 3].mean((1, 3))
    rgb = (blocks[..., :3] * blocks[..., 3:]).sum((1, 3)) / (blocks[..., 3:].sum((1, 3)) + 1e-6)
    rgb = np.round(saturate(rgb, 1.2) * 4) / 4
    checker = (np.indices((cells, cells)).sum(0) % 2)[..., None] * 0.035
    sprite = np.where(alpha[..., None] > 0.45, rgb, ground + checker)
    picture = np.kron(sprite, np.ones((step, step, 1))).astype(np.float32)
    gap = ((XX % step < 1) | (YY % step < 1))[..., None]
    return down(np.where(gap, picture * 0.82, picture))


def watercolour(rgba, rng):
    """Runny transparent washes: soft bleeding body, darker rims, and its colours run out into the
    paper around it.
    """
    wobble = smooth_noise(rng, 7, 2) * 2.2
    wet = warp(rgba, wobble[..., 0], wobble[..., 1])
    alpha = nd.gaussian_filter(wet[..., 3], 1.6)

    def ink(sigma):
        weight = nd.gaussian_filter(wet[..., 3], sigma)[..., None]
        return np.stack(
            [nd.gaussian_filter(wet[..., c] * wet[..., 3], sigma) for c in range(3)], -1
        ) / (weight + 1e-3)

    pigment = saturate(ink(1.8), 1.1) * 0.72 + 0.28
    blotch = np.clip(0.72 + 0.28 * smooth_noise(rng, 6), 0.25, 1)
    rim = np.clip(4 * alpha * (1 - alpha), 0, 1) * 0.30
    amount = np.clip(alpha * blotch + rim, 0, 1)[..., None]
    run = nd.gaussian_filter(wet[..., 3], 9) * np.clip(0.75 + 0.35 * smooth_noise(rng, 9), 0.2, 1.2)
    run = np.clip(run * 0.55, 0, 0.5)[..., None]
    stain = np.clip(smooth_noise(rng, 18) * 0.5 - 0.20, 0, 0.3)[..., None] * np.array(
        [0.30, 0.18, 0.02], np.float32
    )
    paper = np.float32(0.985) - stain + rng.normal(0, 0.008, (N, N, 1)).astype(np.float32)
    paper = paper * (1 - run) + paper * (0.35 + 0.65 * ink(9)) * run
    return down(paper * (1 - amount) + paper * pigment * amount)


def clay(rgba, rng):
    """Rounded, lit from the upper left, with a highlight and a drop shadow, in a grey studio."""
    alpha = rgba[..., 3]
    depth = nd.distance_transform_edt(alpha > 0.5).astype(np.float32)
    height = nd.gaussian_filter(np.sqrt(np.minimum(depth, 22) / 22), 2.2) * 26
    height += nd.gaussian_filter(luminance(rgba[..., :3]) * alpha, 1.2) * 7
    gy, gx = np.gradient(height)
    normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.array([-0.55, -0.65, 0.55], np.float32)
    light /= np.linalg.norm(light)
    lambert = np.clip(normal @ light, 0, 1)
    halfway = light + np.array([0, 0, 1], np.float32)  # between the light and the viewer
    shine = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 18
    body = (
        saturate(rgba[..., :3], 0.95) * (0.38 + 0.85 * lambert[..., None]) + 0.38 * shine[..., None]
    )
    level = 0.52 + 0.22 * YY / N
    ground = level[..., None] * (
        np.array([1.0, 0.98, 0.95], np.float32) + rng.uniform(-0.03, 0.03, 3).astype(np.float32)
    )
    shadow = np.roll(nd.gaussian_filter(alpha, 5), (9, 8), (0, 1))[..., None]
    ground = ground * (1 - 0.55 * shadow)
    return down(
        over(
            np.concatenate([np.clip(body, 0, 1), rgba[..., 3:]], -1).astype(np.float32),
            ground.astype(np.float32),
        )
    )


def pop(rgba, rng):
    """Loud flat ground with halftone dots, posterised colour and a thick black contour."""
    grounds = (
        ([1.0, 0.85, 0.10], [1.0, 0.35, 0.60]),
        ([0.15, 0.80, 0.90], [1.0, 0.90, 0.20]),
        ([1.0, 0.45, 0.70], [0.20, 0.85, 0.85]),
    )
    base, dot = grounds[int(rng.integers(len(grounds)))]
    pitch = 10
    cx, cy = (
        (XX + rng.integers(pitch)) % pitch - pitch / 2,
        (YY + rng.integers(pitch)) % pitch - pitch / 2,
    )
    radius = 1.6 + 2.6 * YY / N
    dots = (cx * cx + cy * cy < radius * radius)[..., None]
    ground = np.where(dots, np.array(dot, np.float32), np.array(base, np.float32))
    body = np.round(saturate(rgba[..., :3], 1.9) * 3) / 3
    picture = over(
        np.concatenate([body, rgba[..., 3:]], -1).astype(np.float32), ground.astype(np.float32)
    )
    contour = np.clip(nd.gaussian_gradient_magnitude(rgba[..., 3], 1.6) * 9 - 0.5, 0, 1)
    inner = np.clip(edges(rgba, 1.0) * 1.3 - 0.45, 0, 1) * 0.8
    return down(picture * (1 - np.maximum(contour, inner)[..., None]))


RENDER = {
    "van_gogh": van_gogh,
    "monet": monet,
    "doodle": doodle,
    "neon": neon,
    "sketch": sketch,
    "pixel": pixel,
    "watercolour": watercolour,
    "clay": clay,
    "pop": pop,
    "flat": flat,
}
assert list(RENDER) == STYLES
