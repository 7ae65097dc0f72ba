"""dataset.json: what a data set is made of, in nnU-Net v2's format."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segkit.dataset.checks.content import check_content
from segkit.dataset.labels import LabelSchema
from segkit.dataset.problems import Problem, problem, raise_errors
from segkit.dataset.sides import Sides, sides_from_content
from segkit.errors import UserError
from segkit.files import content_hash, read_text
from segkit.json_text import is_int, parse_json

SCHEMA_FILE = Path(__file__).with_name("dataset.schema.json")
"""JSON Schema of dataset.json, for editors; what it cannot say, ``check_content`` does."""


@dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """A checked dataset.json."""

    name: str
    """Of the folder, e.g. ``Dataset004_Hippocampus``."""
    file: Path
    """The JSON: dataset.json, or another one in the data set's folder."""
    channel_names: tuple[str, ...]
    """In the order of their numbers."""
    labels: LabelSchema
    file_ending: str
    """With its dot, as in the file names."""
    num_training: int | None
    reader: str | None
    """Image reader named by the user (``overwrite_image_reader_writer``)."""
    explicit_cases: dict[str, dict[str, Any]] | None
    """Case -> its files, in place of imagesTr and labelsTr (the ``dataset`` key)."""
    content: dict[str, Any]
    """The JSON as it was read."""
    unannotated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Case -> overlapping structures nobody looked for in it."""
    sides: Sides | None = None
    """Labels that are each other's mirror image; None where nothing is said of them."""

    @property
    def folder(self) -> Path:
        """Holds the JSON; paths in it start here."""
        return self.file.parent

    @property
    def label_ending(self) -> str:
        """Ending of label files."""
        return label_ending(self.file_ending)

    def hash(self) -> str:
        """Hash of the JSON's content."""
        return content_hash(self.content)


def label_ending(file_ending: str) -> str:
    """Ending of label files: the images', but ``.png`` for JPEG, which cannot hold labels."""
    return ".png" if file_ending.lower() in (".jpg", ".jpeg") else file_ending


def command(name: str, description: DatasetDescription, *options: str) -> str:
    """Write a segkit command on this data set as it is typed: ``segkit plan /data/Dataset004``."""
    usual = description.file.name == "dataset.json"
    path = description.folder if usual else description.file
    return shlex.join(["segkit", name, str(path), *options])


def load_description(path: Path) -> DatasetDescription:
    """Read and check a dataset.json; its warnings are logged.

    Args:
        path: The data set's folder, or a JSON file.

    Raises:
        UserError: one block with all problems of the JSON.
    """
    file = locate(path)
    content, problems = read_content(file)
    if not problems or content is not None:
        problems += check_content(content, file)
    raise_errors(problems, where=file)
    return describe(content, file)


def locate(path: Path) -> Path:
    """Return the JSON file of a data set: ``path`` itself or dataset.json in it."""
    return path / "dataset.json" if path.is_dir() else path


def dataset_name(file: Path) -> str:
    """Return the folder's name; a JSON file of another name than dataset.json adds its own."""
    name = file.parent.resolve().name  # the JSON itself may be a link to a shared one
    return name if file.name == "dataset.json" else f"{name}_{file.stem}"


def read_content(file: Path) -> tuple[Any, list[Problem]]:
    """Parse a dataset.json; where only keys occur twice, the last of each is taken.

    Returns:
        The content (None where it cannot be read), and the problems met.
    """
    doubled: list[str] = []
    code = "SK-D001"
    try:
        text = read_text(file)
        code = "SK-D016"
        content = parse_json(text, file, doubled=doubled)
    except UserError as error:
        return None, [problem(code, error.what, where=file, fix=error.fix or "correct the file")]
    fix = "delete all but one of them"
    return content, [problem("SK-D002", what, where=file, fix=fix) for what in doubled]


def describe(content: Mapping[str, Any], file: Path) -> DatasetDescription:
    """Build the description from checked content (see :func:`check_content`)."""
    channels, reader = content["channel_names"], content.get("overwrite_image_reader_writer")
    count = content.get("numTraining")
    return DatasetDescription(
        name=dataset_name(file),
        file=file,
        channel_names=tuple(channels[key] for key in sorted(channels, key=int)),
        labels=LabelSchema.from_description(content["labels"], content),
        file_ending=content["file_ending"],
        num_training=count if is_int(count) else None,
        reader=None if reader == "None" else reader,
        explicit_cases=content.get("dataset"),
        content=dict(content),
        unannotated={case: tuple(names) for case, names in content.get("unannotated", {}).items()},
        sides=sides_from_content(content),
    )


def describe_predicted(
    content: Mapping[str, Any], left_out: Sequence[str], file: Path
) -> DatasetDescription:
    """Build the description of what a model predicts, as records keep it.

    Args:
        content: Of the dataset.json the model was trained with.
        left_out: Structures of it that are not predicted.
        file: Where it was read from.

    Raises:
        UserError: it is no dataset.json.
    """
    raise_errors(check_content(content, file), where=file)
    described = describe(content, file)
    return replace(described, labels=described.labels.without(left_out))
