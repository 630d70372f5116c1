"""Random draws as functions of a key, such as (seed, step, image, view), instead of a stream's state.

What is drawn then depends neither on the number of ranks, nor on chunks, nor on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import struct

import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key: BLAKE2b of its parts, so that neighbouring keys give unrelated streams."""
    digest = hashlib.blake2b(digest_size=8)
    for part in key:
        data = part.encode() if isinstance(part, str) else struct.pack("<q", part)
        digest.update(struct.pack("<q", len(data)) + data)
    return int.from_bytes(digest.digest(), "little") >> 1


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on a device for draws that are too large for the CPU, seeded by the next draw of a CPU generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream is a function of ``key``."""
    return torch.Generator(device).manual_seed(derive_seed(*key))
