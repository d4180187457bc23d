"""Augmentations of the scene: lids that close, glasses, and less light.

`draw_scene` draws the numbers on the host. The rest is batched torch code that runs where the batch
is. Masks follow: where a lid comes down there is no eye any more; behind glasses and in the dark
an eye is still one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.config import AugmentConfig, Effect

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Sent = dict[str, Tensor]  # a draw on the batch's device; of flags, the rows that have them

# Of pictures whose lids close: one eye alone; shut altogether (the others stay a fifth open).
_ONE_EYE, _SHUT = 0.15, 0.6
_LID = 0.16  # of the distance between the eyes: the skin above an eye that becomes its lid
_SLIVER = 1.5  # pixels that a shut lid comes down too far, so that nothing of the eye is left
_MIRROR, _GLARE = 0.6, 245.0  # contrast of what lenses mirror; level of light on them
_GAMMA = 2.2
_PHOTONS = 4096  # that the brightest pixel of a well lit picture counts


@dataclass(frozen=True)
class Scene:
    """Random numbers for N pictures; places and lengths in pixels of the input, colours in levels.

    `closing`, `wearing` and `shaded` say whether the effect applies.
    """

    closing: Flags
    lids: Floats  # N x 4: shares by which left and right eye close, x between them, skin above
    wearing: Flags
    # N x 8: x and y between the lenses, cosine and sine of the line through them, half their width
    # and height, half the distance of their centres (in half widths), exponent of the superellipse:
    # 2 is round, 4.5 nearly a rectangle.
    lens: Floats
    # N x 11: how little comes through, and how that changes from top to bottom; colour; how
    # strongly they mirror; a streak of light: strength, direction (2), place, width.
    glass: Floats
    rim: Floats  # N x 4: thickness and colour of the frame
    shaded: Flags
    # N x 9: log of the light that is left; the shadow's direction (2), edge, softness; 1 if all of
    # the picture is dark; 1 if the noise of few photons is added; x and y between the eyes.
    shade: Floats


def draw_scene(
    rng: np.random.Generator, config: AugmentConfig, eyes: npt.NDArray[np.float32]
) -> Scene:
    """Draw the numbers for N pictures whose eyes, N x 2 x 2, are at x and y.

    Lids and glasses need two eyes: a picture with one, or none, has neither.
    """
    count = len(eyes)
    eyes = np.take_along_axis(eyes, eyes[:, :, :1].argsort(axis=1), axis=1).astype(np.float64)
    across = eyes[:, 1] - eyes[:, 0]
    apart = np.hypot(*across.T)
    two = apart > 0

    def happens(effect: Effect) -> Flags:
        return rng.random(count) < effect.probability

    def uniform(low: float, high: float, columns: int = 1) -> Floats:
        return rng.uniform(low, high, (count, columns))

    def often(share: float) -> Flags:
        return rng.random((count, 1)) < share

    closing = happens(config.lids) & two
    share = config.lids.strength * np.where(often(_SHUT), 1.0, uniform(0.2, 0.8))
    shares = np.repeat(share, 2, axis=1)
    open_ = often(_ONE_EYE)[:, 0]
    shares[open_, rng.integers(2, size=count)[open_]] = 0
    lids = np.column_stack([shares, eyes[:, :, 0].mean(axis=1), _LID * apart])

    wearing = happens(config.glasses) & two
    half = apart[:, None] * np.concatenate([uniform(0.34, 0.47), uniform(0.2, 0.42)], axis=1)
    tilt = across / np.maximum(apart, 1)[:, None]
    middle = eyes.mean(axis=1)
    bridge = middle + tilt[:, ::-1] * (-1, 1) * half[:, 1:] * uniform(-0.1, 0.35)
    gap = apart[:, None] * (0.5 + uniform(-0.04, 0.1)) / np.maximum(half[:, :1], 1)
    clear = often(0.5)
    dark = config.glasses.strength * np.where(clear, uniform(0, 0.25), uniform(0, 1))
    tint = np.where(often(0.6), uniform(5, 50), uniform(0, 160, 3))
    rim = np.where(often(0.7), uniform(5, 90), uniform(0, 255, 3))
    form, slope, thick = uniform(2, 4.5), uniform(-0.5, 0.5), apart[:, None] * uniform(0.01, 0.06)
    mirror = uniform(0, 0.6) * often(0.6)
    streak, angle = uniform(0, 1) * often(0.5), uniform(0, np.pi)
    glass = [dark, slope, tint, mirror, streak, np.cos(angle), np.sin(angle)]
    glass += [uniform(-0.7, 0.7), uniform(0.05, 0.3)]

    shaded = happens(config.shade)
    angle, least = uniform(0, 2 * np.pi), np.log(max(1e-3, 1 - config.shade.strength))
    shade = [uniform(least, 0), np.cos(angle), np.sin(angle), uniform(-0.2, 0.2)]
    shade += [np.exp(uniform(np.log(0.005), np.log(0.2))), often(0.5), often(0.6), middle]
    return Scene(
        closing=closing, lids=lids, wearing=wearing,
        lens=np.concatenate([bridge, tilt, half, gap, form], axis=1),
        glass=np.concatenate(glass, axis=1), rim=np.concatenate([thick, rim], axis=1),
        shaded=shaded, shade=np.concatenate(shade, axis=1),
    )  # fmt: skip


def close_lids(grid: Tensor, masks: Tensor, sent: Sent) -> None:
    """Let the upper lids come down: the skin above an eye is stretched over it.

    Parameters
    ----------
    grid
        N x 2 (x, y) x h x w, where each pixel of the output lies in the input; changed in place.
        Column by column of the mask: above the lid's new edge it points higher up.
    masks
        N x H x W uint8, 255 where an eye is.
    sent
        The draw.
    """
    rows = sent["closing"]
    left, right, middle, skin = sent["lids"].index_select(0, rows)[:, :, None].unbind(dim=1)
    eye = masks.index_select(0, rows) >= 128
    height, width = eye.shape[1:]
    top, bottom = eye.byte().argmax(dim=1), height - eye.flip(1).byte().argmax(dim=1)
    columns = torch.arange(width, device=grid.device) + 0.5
    share = torch.where(columns < middle, left, right)
    fall = (share * (bottom - top) + _SLIVER * (share == 1)) * eye.any(dim=1)
    x, y = grid.index_select(0, rows).unbind(dim=1)
    at = x.floor().long().clamp(0, width - 1).flatten(1)
    fall, edge = (of.gather(1, at).view_as(x) for of in (fall, top.float()))
    skin = skin[:, :, None]
    along = (y - edge + skin) / (skin + fall)
    lid = (along > 0) & (along < 1) & (fall > 0)
    y = torch.where(lid, edge - skin + along * skin, y)
    grid.index_copy_(0, rows, torch.stack([x, y], dim=1))


def wear_glasses(pictures: Tensor, rows: Tensor, sent: Sent, grid: Tensor) -> Tensor:
    """Lay tinted lenses over the eyes, with a frame, what they mirror and a streak of light."""
    bridge, tilt, half, gap, form = _columns(sent["lens"], rows, 2, 2, 2, 1, 1)
    dark, slope, tint, mirror, streak, across, along, place, wide = _columns(
        sent["glass"], rows, 1, 1, 3, 1, 1, 1, 1, 1, 1
    )
    thick, rim = _columns(sent["rim"], rows, 1, 3)
    cos, sin = torch.split(tilt, 1, dim=1)
    x, y = torch.split(grid.index_select(0, rows) - bridge, 1, dim=1)
    turned = torch.cat([x * cos + y * sin, y * cos - x * sin], dim=1) / half
    # Both lenses at once: x counts from the centre of the nearer one, 1 at its end.
    nose, y = torch.split(turned, 1, dim=1)
    nose = nose.abs()
    x = nose - gap
    norm = torch.cat([x, y], dim=1).abs().clamp(min=1e-4).pow(form).sum(dim=1, keepdim=True)
    inside = (1 - norm.pow(1 / form)) * half.amin(dim=1, keepdim=True)  # pixels, about
    beam = ((y + 0.25) * half[:, 1:]).abs() + (nose > gap - 1) * thick  # between the lenses
    frame = (thick / 2 + 0.5 - torch.minimum(inside.abs(), beam)).clamp(0, 1)
    glass = (inside + 0.5).clamp(0, 1)
    mirrored = pictures.roll(pictures.shape[2] // 2, 2).flip(3) * (_MIRROR * mirror * glass)
    pictures = torch.lerp(pictures, tint, glass * (dark * (1 - slope * y)).clamp(0, 0.95))
    pictures = pictures + mirrored * (1 - pictures / 255)
    light = 1.5 - (x * across + y * along - place).abs() * (1.5 / wide)
    pictures = pictures + (_GLARE - pictures) * (glass * streak * light.clamp(0, 1))
    return torch.lerp(pictures, rim, frame)


def _columns(table: Tensor, rows: Tensor, *widths: int) -> tuple[Tensor, ...]:
    """Take some rows of a table apart by columns, each N x width x 1 x 1."""
    chosen = table.index_select(0, rows)[..., None, None]
    parts: tuple[Tensor, ...] = torch.split(chosen, list(widths), dim=1)
    return parts


def take_light(
    pictures: Tensor, rows: Tensor, sent: Sent, grid: Tensor, noise: Tensor, size: int
) -> Tensor:
    """Take light away, evenly or on one side of a line through the face, and count photons.

    `noise` is standard normal, N x pixels; `size` is the side of the input in pixels.
    """
    loss, cos, sin, edge, soft, evenly, counted, middle = _columns(
        sent["shade"], rows, 1, 1, 1, 1, 1, 1, 1, 2
    )
    x, y = torch.split((grid.index_select(0, rows) - middle) / size, 1, dim=1)
    shadow = ((x * cos + y * sin - edge) / soft).sigmoid()
    left = (loss * torch.maximum(shadow, evenly)).exp()
    photons = _PHOTONS * left * (pictures.clamp(0, 255) / 255).pow(_GAMMA)
    photons = photons + counted * (photons + 4).sqrt() * noise.view_as(pictures)
    photons = photons.clamp(min=0)
    darker: Tensor = ((photons / _PHOTONS).pow(1 / _GAMMA) * 255).round()
    return darker
