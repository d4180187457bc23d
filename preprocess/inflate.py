"""Decompression of zlib streams by zlib-ng: on the flat rows of masks 20 times zlib's speed."""

from __future__ import annotations

from zlib_ng import zlib_ng

# Deflate's best: 258 bytes in two bits. What claims more is damaged, and may claim terabytes.
_MOST_EXPANSION = 1032


def inflate(packed: bytes, size: int, *, raw: bool = False) -> bytes:
    """Decompress a zlib stream, or a bare deflate stream (`raw`), whose unpacked size is known.

    Raises
    ------
    ValueError
        If the stream is damaged or of another size.
    """
    if size > len(packed) * _MOST_EXPANSION:
        raise ValueError(f"{len(packed)} bytes cannot hold {size}")
    try:
        stream = zlib_ng.decompressobj(-15 if raw else 15)
        data: bytes = stream.decompress(packed, size + 1)  # and no byte more
    except zlib_ng.error as error:  # type: ignore[misc]  # the stub misses its base class
        raise ValueError(str(error)) from None
    if len(data) != size or not stream.eof:
        raise ValueError(f"{len(data)} bytes instead of {size}, or cut off")
    return data
