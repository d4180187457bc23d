"""What several parts of a face have in common: the person, the pose and the light.

Face coordinates: the origin lies midway between the eyes, x points to the viewer's right, y down,
and the unit is the width of the picture. Depth is the distance in front of the head's axis.
Colours are RGB, 0 to 255.
"""

from __future__ import annotations

import numpy as np

EYE_X, EYE_DEPTH = 0.121, 0.23  # of the eye on the viewer's right; the other one is mirrored
_SKINS = np.array(((246, 224, 210), (236, 203, 182), (226, 184, 156), (204, 156, 122),
                   (172, 122, 90), (140, 96, 71), (108, 73, 56), (82, 56, 46)))  # fmt: skip
_HAIRS = np.array(((22, 18, 18), (34, 26, 22), (58, 38, 28), (88, 58, 38), (122, 84, 52),
                   (168, 126, 78), (206, 172, 118), (126, 56, 30), (150, 146, 142)))  # fmt: skip
_IRISES = np.array(((46, 28, 18), (62, 38, 22), (88, 54, 28), (112, 82, 44), (104, 108, 64),
                    (92, 120, 92), (104, 136, 156), (86, 122, 168), (132, 148, 158)))  # fmt: skip


class Look:
    """One person in one pose and one light, chosen by `rng`; `size` is the picture's side."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        tone = rng.uniform(0, len(_SKINS) - 1.01)
        lighter, darker = _SKINS[int(tone)], _SKINS[int(tone) + 1]
        skin = lighter + (darker - lighter) * (tone % 1) + rng.normal(0, 4, 3)
        few = 3 if tone > 3.8 and rng.random() < 0.85 else None  # dark skin: dark hair and eyes
        self.skin = np.clip(skin * 0.95, 20, 240).astype(np.float32)
        self.hair = (rng.choice(_HAIRS[:few]) * rng.uniform(0.8, 1.25)).astype(np.float32)
        self.iris = (rng.choice(_IRISES[:few]) * rng.uniform(0.8, 1.2)).astype(np.float32)
        self.width = rng.uniform(0.238, 0.275)  # half of the head's
        light = np.array((rng.normal(0, 0.42), rng.uniform(-0.8, 0.05), 1), np.float32)
        self.light = light / np.linalg.norm(light)  # unit vector to the light; z is to the camera
        # poses vary about as much as in CelebAMask-HQ, whose faces are aligned
        self.yaw = float(np.clip(rng.normal(0, 0.2), -0.5, 0.5))  # radians, to the viewer's right
        roll = np.radians(np.clip(rng.normal(0, 8), -25, 25))
        scale = size * np.clip(rng.normal(1, 0.06), 0.8, 1.2)
        c, s = scale * np.cos(roll), scale * np.sin(roll)
        x, y = size * rng.normal((0.5, 0.472), 0.015)
        self.affine = np.array(((c, -s, x), (s, c, y)))  # from face coordinates to pixels
        # of the viewer's left and right eye; 0 is closed, 1 wide open
        self.openness = np.clip(rng.normal(0.88, 0.18), 0.16, 1.05) * rng.uniform(0.9, 1.05, 2)
        self.glasses = "clear" if rng.random() < 0.16 else ""  # or "sun"
        self.covered = 0  # or -1, 1: hair hides the viewer's left or right eye
        rare, side = rng.random(), int(rng.integers(2))
        if rare < 0.02:
            self.openness[:] = 0
        elif rare < 0.03:
            self.openness[side] = 0
        elif rare < 0.05:
            self.glasses = "sun"
        elif rare < 0.09:
            self.covered = (-1, 1)[side]

    def turned(self, x: float, depth: float) -> float:
        """Return where x is seen after the head has turned about the origin."""
        return float(x * np.cos(self.yaw) + (depth - EYE_DEPTH) * np.sin(self.yaw))
