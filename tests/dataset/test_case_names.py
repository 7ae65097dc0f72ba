import pytest

from segkit.dataset.case_names import RESERVED_ENDINGS, check_names, is_usable, same_name
from segkit.preprocessing.store import SUFFIXES


def codes(*names):
    return [found.code for found in check_names(names, "imagesTr")]


@pytest.mark.parametrize(
    "name", ["a", "patient_007", "sub-01_ses-2", "Müller", "a b", "1.2.840", "x" * 200, "console"]
)
def test_ordinary_names_are_fine(name):
    assert codes(name) == []
    assert is_usable(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "/", "a\0", "é" * 101, "\udc80"])
def test_names_no_file_can_have_are_errors(name):
    assert codes(name) == ["SK-F015"]
    assert not is_usable(name)


@pytest.mark.parametrize(
    "name", ["-a", "a\\b", "a:b", "a*", "a?", 'a"', "a<b", "a>b", "a|b", "a\tb", "a.", "a ", "NUL"]
)
def test_names_that_break_elsewhere_are_warnings(name):
    assert codes(name) == ["SK-F016"]
    assert is_usable(name)


@pytest.mark.parametrize("name", ["-a", "a:b", "a/b", ".a", "a\n", "", "aux", "é" * 101, "\udc80"])
def test_the_name_proposed_is_a_good_one(name):
    (found,) = check_names([name], "imagesTr")
    assert codes(found.fix.removeprefix("rename all files of the case, for example to ")) == []


def test_names_that_are_one_file_elsewhere():
    assert codes("Case", "case", "other") == ["SK-F017"]
    assert codes("e\u0301", "\u00e9") == ["SK-F017"]
    assert same_name("STRASSE") == same_name("straße")


def test_number_twice_is_told_unless_cases_are_numbered():
    assert codes("liver_0000", "spleen") == ["SK-F018"]
    assert codes("liver_0000", "liver_0001") == []
    assert codes("liver_0001", "liver_0002") == []


def test_names_whose_preprocessed_files_collide():
    assert codes("a", "a_seg") == ["SK-F019"]
    assert codes("a_locations", "a", "b_seg") == ["SK-F019"]


def test_reserved_endings_are_those_of_the_store():
    added = {suffix.removesuffix(".npy") for suffix in SUFFIXES if suffix.endswith(".npy")}
    assert added - {""} == set(RESERVED_ENDINGS)
