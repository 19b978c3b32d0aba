"""A hash of what a picture looks like: equal for copies of it, far apart for different pictures."""

from __future__ import annotations

from itertools import pairwise

from PIL import Image, ImageOps

_HASH_SIDE = 24
_CONTRAST = 12  # Of 255, after stretching: smaller steps between neighbouring cells are noise, larger ones are content.


def perceptual_hash(page: Image.Image) -> str | None:
    """A difference hash of 576 bits, in hexadecimal; None for a page with nothing on it.

    Each bit tells whether a cell of a grid is clearly darker than its right neighbour. Copies that were scaled, recompressed,
    or made brighter differ in few bits.
    """
    grid = page.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    darkest, lightest = grid.getextrema()
    if lightest - darkest < _CONTRAST:  # type: ignore[operator]
        return None
    cells = ImageOps.autocontrast(grid).tobytes()
    rows = (cells[at : at + _HASH_SIDE + 1] for at in range(0, len(cells), _HASH_SIDE + 1))
    bits = "".join("1" if right - left > _CONTRAST else "0" for row in rows for left, right in pairwise(row))
    return f"{int(bits, 2):0{_HASH_SIDE * _HASH_SIDE // 4}x}" if "1" in bits else None
