"""Made-up faces, each drawn in five steps.

1. `look.Look` chooses the person, the pose, the light and which eyes can be seen.
2. `face.draw_head` draws the head without eyes: upright and small, then enlarged and turned.
3. `eye.paint_eyes` paints eyes and brows at full resolution.
4. `camera.paint_glasses` paints glasses, if the person wears any.
5. `camera.photograph` takes the picture.

Everywhere `image` is (size, size, 3) uint8, RGB; `cover` is (size, size) float32, 0 to 1: how much
of a pixel is hair in front of the face; `shown` likewise: how much of it shows an eye or glasses.
"""
