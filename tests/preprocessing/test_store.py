import dataclasses
import mmap

import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.errors import UserError
from segkit.preprocessing.pipeline import CaseRecord, PreprocessedCase
from segkit.preprocessing.store import PreprocessedStore, Source, read_soon, row_pages
from segkit.types import Geometry

SCHEMA = LabelSchema(classes=tuple(LabelClass(name=f"c{i}", value=i) for i in (1, 2)))
SOURCE = Source(settings="s", identity="i", stamps=(("a.nii", 3, 1_700_000_000_123_456_789),))


def make_case(seed=0, shape=(4, 5, 6)):
    rng = np.random.default_rng(seed)
    record = CaseRecord(
        case="a",
        files=("a_0000.nii",),
        geometry=Geometry(spacing_mm=(1.0, 2.0, 3.0)),
        orientation=None,
        transpose_forward=(0, 1, 2),
        shape_stored=shape,
        shape_before_crop=shape,
        bbox=tuple((0, n) for n in shape),
        shape_after_crop=shape,
        shape_resampled=shape,
        spacing_mm=(1.0, 2.0, 3.0),
        spacing_resampled_mm=(1.0, 2.0, 3.0),
    )
    return PreprocessedCase(
        image=rng.normal(size=(2, *shape)).astype(np.float32),
        seg=rng.integers(-1, 4, (1, *shape)).astype(np.int16),
        record=record,
        invalid_zyx=np.zeros(shape, bool),
    )


def test_round_trip_through_memory_maps(tmp_path):
    store, case = PreprocessedStore(tmp_path / "new"), make_case()
    assert store.case_ids() == ()
    store.save("a.1", case, schema=SCHEMA, source=SOURCE)
    store.save("b", case, schema=SCHEMA)
    assert store.case_ids() == ("a.1", "b")
    assert isinstance(store.image("a.1"), np.memmap)
    assert not store.image("a.1").flags.writeable
    np.testing.assert_array_equal(store.image("a.1"), case.image)
    np.testing.assert_array_equal(store.seg("a.1"), case.seg)
    assert store.seg("a.1").dtype == np.int16
    assert store.record("a.1") == case.record
    assert store.source("a.1") == SOURCE


def test_locations_come_back_by_key(tmp_path):
    store, case = PreprocessedStore(tmp_path), make_case()
    store.save("a", case, schema=SCHEMA)
    locations = store.locations("a")
    assert list(locations) == [1, 2, "annotated"]
    for k in (1, 2):
        assert locations[k].dtype == np.int32
        np.testing.assert_array_equal(locations[k], np.argwhere(case.seg[0] == k))
    annotated = (case.seg >= 0) & (case.seg < 3)
    assert len(locations["annotated"]) == annotated.sum()


def test_case_without_foreground_has_no_locations(tmp_path):
    case = make_case()
    case.seg[...] = 0
    PreprocessedStore(tmp_path).save("a", case, schema=SCHEMA)
    assert PreprocessedStore(tmp_path).locations("a") == {}


def test_half_written_case_does_not_count(tmp_path, monkeypatch):
    store = PreprocessedStore(tmp_path)
    store.save("a", make_case(), schema=SCHEMA, source=SOURCE)

    def out_of_space(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("segkit.preprocessing.store.np.save", out_of_space)
    with pytest.raises(OSError, match="no space"):
        store.save("a", make_case(1), schema=SCHEMA, source=SOURCE)
    assert store.case_ids() == ()
    assert store.source("a") is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_remove(tmp_path):
    store = PreprocessedStore(tmp_path)
    store.save("a", make_case(), schema=SCHEMA)
    store.remove("a")
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path):
    store = PreprocessedStore(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        store.image("a")
    with pytest.raises(UserError, match="not found"):
        store.record("a")
    (tmp_path / "a.npy").write_bytes(b"half")
    with pytest.raises(UserError, match="cannot read"):
        store.image("a")
    unlabelled = PreprocessedCase(
        image=make_case().image,
        seg=None,
        record=make_case().record,
        invalid_zyx=make_case().invalid_zyx,
    )
    with pytest.raises(ValueError, match="no label map"):
        store.save("a", unlabelled, schema=SCHEMA)


def test_structures_are_stored_in_a_byte_each(tmp_path):
    schema = LabelSchema(classes=SCHEMA.classes, overlapping=True)
    case = make_case()
    seg = np.random.default_rng(1).integers(-1, 3, (2, 4, 5, 6)).astype(np.int8)
    store = PreprocessedStore(tmp_path)
    store.save("a", dataclasses.replace(case, seg=seg), schema=schema)
    assert store.seg("a").dtype == np.int8
    np.testing.assert_array_equal(store.seg("a"), seg)


def test_row_pages_hold_every_row_of_the_box_and_little_else(tmp_path):
    path = tmp_path / "a.npy"
    array = np.arange(2 * 7 * 300 * 20, dtype=np.float32).reshape(2, 7, 300, 20)
    np.save(path, array)
    mapped = np.load(path, mmap_mode="r")
    box = (slice(2, 5), slice(100, 160), slice(3, 9))
    found = np.zeros(path.stat().st_size, dtype=bool)
    for start, stop in row_pages(mapped, box):
        assert start % mmap.PAGESIZE == 0
        found[start:stop] = True
    wanted = np.zeros(array.shape, dtype=bool)
    wanted[:, 2:5, 100:160] = True
    bytes_of_voxels = found[mapped.offset :].reshape(*array.shape, 4).all(axis=-1)
    assert bytes_of_voxels[wanted].all()
    assert found.sum() <= wanted.sum() * 4 + 6 * mmap.PAGESIZE


def test_read_soon_takes_any_array(tmp_path):
    path, box = tmp_path / "a.npy", (slice(0, 2), slice(1, 2), slice(0, 3))
    np.save(path, np.ones((1, 2, 3, 4), dtype=np.int8))
    for array in (np.load(path, mmap_mode="r"), np.load(path, mmap_mode="r")[:, 1:], np.load(path)):
        read_soon(array, box)
        assert (array == 1).all()
