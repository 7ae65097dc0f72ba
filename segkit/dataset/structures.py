"""Structures that may overlap: bits of one integer, or a mask each, to channels and back.

A channel a structure all the way: no combination of structures is ever counted out.
"""

from __future__ import annotations

import numpy as np

from segkit.dataset.labels import LabelSchema, as_integers
from segkit.errors import UserError, listing

PRESENT = 1
LARGEST_BITMASK = 62
"""Most structures one integer on disk (int64) can hold."""


def encode_structures(raw: np.ndarray, schema: LabelSchema, *, source: object = None) -> np.ndarray:
    """Turn what is on disk into a channel a structure.

    Args:
        raw: (1, Z, Y, X) bitmasks, or (D, Z, Y, X) masks of 0 and 1, one for each of the D
            structures on disk.
        schema: An overlapping one.
        source: The file, for messages.

    Returns:
        (S, Z, Y, X) int8: 0 absent, 1 present, 2 ignore. An ignore value in a bitmask stands
        for all structures, in a mask for its own.

    Raises:
        UserError: fractional values, bits or masks that no structure has, masks that are not
            0 and 1, or what :func:`check_bitmask` refuses.
    """
    on_disk = schema.structures_on_disk
    if len(raw) not in (1, on_disk):
        what = f"the label file holds {len(raw)} masks; dataset.json declares {on_disk}"
        fix = "store one mask a structure along the last axis, in the order of their numbers"
        raise UserError(what, where=source, fix=fix)
    channels = np.empty((schema.seg_channels, *raw.shape[1:]), dtype=np.int8)
    if len(raw) == on_disk:
        _check_unclaimed(raw, schema, source)
        for channel, bit in zip(channels, schema.structure_bits, strict=True):
            channel[...] = encode_mask(raw[bit], schema, source=source)
        return channels
    check_bitmask(schema, source)
    values, ignored = _without_ignored(raw[0], schema, source)
    _check_bits(values, schema, source)
    for channel, bit in zip(channels, schema.structure_bits, strict=True):
        channel[...] = (values >> bit) & 1
        channel[ignored] = schema.ignore_index
    return channels


def encode_mask(raw_zyx: np.ndarray, schema: LabelSchema, *, source: object = None) -> np.ndarray:
    """Turn the mask of one structure, (Z, Y, X) of 0 and 1, into its channel, int8.

    Raises:
        UserError: values that are neither 0, 1 nor an ignore value.
    """
    values, ignored = _without_ignored(raw_zyx, schema, source)
    wrong = np.unique(values[(values != 0) & (values != PRESENT)])
    if wrong.size:
        what = f"masks hold values other than 0 and 1: {', '.join(map(str, wrong[:10]))}"
        raise UserError(what, where=source, fix="write 1 where the structure is, else 0")
    channel = values.astype(np.int8)
    channel[ignored] = schema.ignore_index
    return channel


def decode_bitmask(channels: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """Turn channels (S, Z, Y, X) into bitmasks (Z, Y, X), smallest type that holds all bits.

    Only 1 counts as present; bits of structures left out stay 0.

    Raises:
        UserError: more structures than an integer has bits.
    """
    _check_fits(schema, None)
    bits = schema.structures_on_disk
    width = 8 if bits <= 8 else 16 if bits <= 16 else 32 if bits <= 31 else 64
    result = np.zeros(channels.shape[1:], dtype=f"{'u' if width < 32 else ''}int{width}")
    for channel, bit in zip(channels, schema.structure_bits, strict=True):
        result[channel == PRESENT] |= result.dtype.type(1 << bit)
    return result


def decode_masks(channels: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """Turn channels (S, Z, Y, X) into masks (D, Z, Y, X) uint8, empty for structures left out."""
    result = np.zeros((schema.structures_on_disk, *channels.shape[1:]), dtype=np.uint8)
    for channel, bit in zip(channels, schema.structure_bits, strict=True):
        result[bit] = channel == PRESENT
    return result


def _without_ignored(
    raw: np.ndarray, schema: LabelSchema, source: object
) -> tuple[np.ndarray, np.ndarray]:
    """Return integers with 0 in place of ignore values, and where those were."""
    integers = as_integers(raw, source)
    ignored = np.isin(integers, list(schema.ignored_values))
    return np.where(ignored, integers.dtype.type(0), integers), ignored


def check_bitmask(schema: LabelSchema, source: object) -> None:
    """Refuse structures that one integer a voxel cannot tell apart from each other and ignore.

    Args:
        schema: An overlapping one.
        source: A file of bitmasks, for messages.

    Raises:
        UserError: more structures than an integer has bits, or an ignore value that is also a
            combination of structures.
    """
    _check_fits(schema, source)
    known = _known_bits(schema)
    if mistaken := sorted(v for v in schema.ignore_values if v > 0 and not v & ~known):
        what = f"the ignore value {mistaken[0]} is also the bitmask of a combination of structures"
        fix = "use -1, in the files too; or store one mask a structure"
        raise UserError(what, where=source, fix=fix)


def _check_fits(schema: LabelSchema, source: object) -> None:
    if (bits := schema.structures_on_disk) > LARGEST_BITMASK:
        what = f"{bits} structures do not fit into one integer a voxel (at most {LARGEST_BITMASK})"
        fix = "store one mask a structure, in one file or in a folder; is each voxel of one class \
only, then delete label_encoding"
        raise UserError(what, where=source, fix=fix)


def _check_bits(values: np.ndarray, schema: LabelSchema, source: object) -> None:
    if (lowest := int(values.min(initial=0))) < 0:
        what = f"bitmasks are never negative; the file holds {lowest}"
        raise UserError(what, where=source, fix="correct the file, or declare an ignore_label")
    if unknown := int(np.bitwise_or.reduce(values, axis=None)) & ~_known_bits(schema):
        bits = [1 << bit for bit in range(unknown.bit_length()) if unknown >> bit & 1]
        what = f"bitmasks with bits that no structure has: {listing([str(bit) for bit in bits])}"
        fix = f"declare every bit under 'labels'; declared: {schema.describe()}"
        raise UserError(what, where=source, fix=fix)


def _check_unclaimed(masks: np.ndarray, schema: LabelSchema, source: object) -> None:
    """Refuse masks with voxels at places that no structure has."""
    places = sorted(set(range(len(masks))) - _claimed(schema))
    if filled := [place + 1 for place in places if masks[place].any()]:
        what = f"masks that no structure has are not empty: number {', '.join(map(str, filled))}"
        fix = f"declare them under 'labels'; declared: {schema.describe()}"
        raise UserError(what, where=source, fix=fix)


def _known_bits(schema: LabelSchema) -> int:
    return sum(1 << bit for bit in _claimed(schema))


def _claimed(schema: LabelSchema) -> set[int]:
    return {*schema.structure_bits, *schema.left_out_bits}
