import numpy as np

from segkit.dataset.duplicates import channel_hash, image_hashes, same_images
from segkit.dataset.leaks import describe_leaks, find_leaks
from segkit.dataset.splits import Split


def test_hashes_are_of_voxels_and_shape():
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    (first,) = image_hashes(image)
    assert image_hashes(np.asfortranarray(image)) == (first,)
    assert channel_hash(image[0]) == first
    assert image_hashes(image.reshape(1, 2, 4, 3)) != (first,)
    assert image_hashes(np.concatenate([image, np.ones_like(image), image + 1]))[0] == first
    assert len(image_hashes(np.concatenate([image, np.ones_like(image)]))) == 1


def test_cases_that_share_an_image():
    hashes = {"a": ["1"], "b": ["2", "3"], "c": ["3", "1"], "d": ["4"], "e": ["2"], "f": []}
    assert same_images(hashes) == [("a", "c"), ("b", "e"), ("b", "c")]
    assert same_images({"a": ["1", "2"], "b": ["1", "2"], "c": ["3"]}) == [("a", "b")]


def test_a_channel_that_all_share_beside_others_is_a_template():
    assert same_images({"a": ["t", "1"], "b": ["t", "2"], "c": ["t", "1"]}) == [("a", "c")]
    assert same_images({"a": ["t"], "b": ["t"]}) == [("a", "b")]


def test_pairs_across_a_fold():
    split = Split(train=("a", "b", "c"), val=("d", "e"))
    groups = {"P": ("a", "d"), "Q": ("b", "c"), "R": ("e",)}
    found = find_leaks(split, groups, [("b", "d", "e"), ("a", "d", "x")])
    assert [(leak.train, leak.val, leak.why) for leak in found] == [
        ("b", "d", "the same image"),
        ("b", "e", "the same image"),
        ("a", "d", "the same image"),
    ]
    (leak,) = find_leaks(split, groups, [])
    assert str(leak) == "a (train) and d (validation): both of P"
    everything = Split(train=("a", "b"), val=("a", "b"))
    assert find_leaks(everything, {"P": ("a", "b")}, [("a", "b")]) == []


def test_few_pairs_are_listed():
    split = Split(train=tuple("abcdefg"), val=("x",))
    leaks = find_leaks(split, {"P": tuple("abcdefgx")}, [])
    text = describe_leaks({"0": leaks, "3": leaks[:1]})
    assert text.count("both of P") == 6
    assert "fold 0 is validated on what it is trained on, 7 pair(s)" in text
    assert "and 2 more" in text
    assert "fold 3 is validated on what it is trained on, 1 pair(s)" in text
