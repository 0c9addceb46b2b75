"""Histograms as small blobs: how many events fell into which log-bucket.

A blob is a list of pairs, bucket ascending: the distance from the bucket before, and the weight; both as base-128
numbers, the lowest seven bits first, the eighth bit set where more follow. A full hour takes about 500 bytes.
"""

from __future__ import annotations

from itertools import accumulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def packed(weights: dict[int, int]) -> bytes:
    """Give the blob of weights by bucket; buckets without weight are left out. Raises nothing for sound weights."""
    blob = bytearray()
    before = 0
    for bucket in sorted(weights):
        weight = weights[bucket]
        if weight > 0:
            _append(blob, bucket - before)
            _append(blob, weight)
            before = bucket
    return bytes(blob)


def _append(blob: bytearray, number: int) -> None:
    while number > 127:
        blob.append(number & 127 | 128)
        number >>= 7
    blob.append(number)


def add_packed(weights: dict[int, int], blobs: Iterable[bytes]) -> None:
    """Count what `blobs` hold into `weights`."""
    get = weights.get
    for blob in blobs:
        if blob.isascii():  # every number takes one byte
            for bucket, weight in zip(accumulate(blob[::2]), blob[1::2], strict=True):
                weights[bucket] = get(bucket, 0) + weight
            continue
        bucket = number = shift = 0
        is_weight = False
        for byte in blob:
            if byte > 127:
                number |= (byte & 127) << shift
                shift += 7
                continue
            if shift:
                number |= byte << shift
                shift = 0
            else:
                number = byte
            if is_weight:
                weights[bucket] = get(bucket, 0) + number
            else:
                bucket += number
            is_weight = not is_weight
            number = 0
