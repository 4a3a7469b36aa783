"""IDX, the file format of MNIST and its relatives, plain or gzipped.

Two zero bytes, a type code, the number of dimensions, each dimension as a big-endian 32-bit number,
then the values, the last dimension varying fastest (described on the original MNIST page).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tracking.errors import BadDataset
from tracking.reasons import one_line

__all__ = ["read_idx"]

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an IDX file of unsigned bytes; a name ending in .gz is decompressed.

    Raises BadDataset: the file cannot be read, is no IDX file of bytes with that many dimensions,
    or holds fewer or more values than its header says.
    """
    content = _read(path)
    header = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)):
        raise BadDataset(
            f"{path}: not an IDX file of unsigned bytes with {dimensions} dimensions "
            f"(it begins with {content[:4].hex(' ') or 'nothing'})"
        )
    if len(content) < header:
        raise BadDataset(f"{path}: the file ends within its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise BadDataset(
            f"{path}: holds {len(content) - header} values where its header says "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape))


def _read(path: Path) -> bytearray:
    # A bytearray, because a tensor must not share memory with an immutable object.
    try:
        data = path.read_bytes()
        return bytearray(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error) as error:
        raise BadDataset(
            f"{path}: cannot be read ({one_line(error)}); fetch the file again"
        ) from error
