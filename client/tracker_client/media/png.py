"""Encodes PNG with zlib alone, so that images of arrays need no image library.

The format follows the PNG specification (W3C, third edition): signature, IHDR, one IDAT, IEND. The IDAT holds
zlib data, whose rows each begin with filter type 0. Each chunk has its length and its CRC-32.
"""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour types by number of channels: grey, grey with alpha, RGB, RGBA."""
_COMPRESSION = 6


def encode_png(width: int, height: int, channels: int, pixels: bytes) -> bytes:
    """Encode an image as PNG.

    Args:
        width: in pixels, at least 1.
        height: in pixels, at least 1.
        channels: from 1 to 4: grey, grey with alpha, RGB, RGBA.
        pixels: height × width × channels bytes, row by row from the top.

    Raises:
        ValueError: the sizes do not fit each other, or the number of channels is not one of these.
    """
    row_bytes = width * channels
    if channels not in _COLOUR_TYPES or width < 1 or height < 1 or len(pixels) != row_bytes * height:
        raise ValueError(
            f"{len(pixels)} bytes are no image of {width} × {height} pixels with {channels} channels"
        )
    compressor = zlib.compressobj(_COMPRESSION)
    data = bytearray()
    for at in range(0, len(pixels), row_bytes):
        data += compressor.compress(b"\0" + pixels[at : at + row_bytes])
    data += compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", bytes(data)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
