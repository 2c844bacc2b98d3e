"""How microscopes name their files, and what names of files and folders say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath

from napari_microdl.fields.metadata import read_names


@dataclass(frozen=True)
class FilePattern:
    r"""How files are named.

    Parameters
    ----------
    title : str
        What people call it.
    expression : str
        A pattern of `napari_microdl.fields.metadata.read_names`. Where it holds slashes it is read
        against as many folders, else against the name alone, with or without its ending.
    example : str
        A name that fits.
    """

    title: str
    expression: str
    example: str = ""

    def read(self, files: Sequence[PurePath]) -> list[dict[str, str]]:
        """What the names of files say, empty where one does not fit.

        Raises
        ------
        MicrodlError
            If it is no pattern; see `read_names`.
        """
        depth = self.expression.count("/") + 1
        whole = ["/".join(file.parts[-depth:]) for file in files]
        bare = ["/".join([*file.parts[-depth:-1], stem(file)]) for file in files]
        without, with_ending = (read_names(names, self.expression) for names in (bare, whole))
        return [read or other for read, other in zip(without, with_ending, strict=True)]


_WELL = r"(?P<well>(?:[A-P]|A[A-F])\d{1,2})"
_GUID = r"(?:[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})?"

# In the order in which they are preferred where as many names fit.
PATTERNS = (
    FilePattern(
        "Opera Phenix, Operetta",
        r"(?i)r(?P<row>\d{2})c(?P<column>\d{2})(?P<site>f\d+)p(?P<z>\d+)-(?P<channel>ch\d+)"
        r"(sk(?P<time>\d+))?(fk\d+)?(fl\d+)?",
        "r02c03f01p01-ch1sk1fk1fl1.tiff",
    ),
    FilePattern(
        "Yokogawa CellVoyager",
        rf"(?i)((?P<plate>.+)_)?{_WELL}_T(?P<time>\d+)(?P<site>F\d+)L\d+A\d+Z(?P<z>\d+)"
        r"(?P<channel>C\d+)",
        "Plate_B03_T0001F001L01A01Z01C01.tif",
    ),
    FilePattern(
        "Yokogawa CQ1",
        r"(?i)(?P<well>W\d+)(?P<site>F\d+)T(?P<time>\d+)Z(?P<z>\d+)(?P<channel>C\d+)",
        "W0001F0001T0001Z01C1.tif",
    ),
    FilePattern(
        "InCell",
        r"(?i)((?P<plate>.+)_)?(?P<row>[A-P]) - (?P<column>\d{1,2})\((?P<site>fld \d+)"
        r"( wv (?P<channel>.+?)( - (?P=channel))?)?(- time (?P<time>\d+) - \d+ ms)?( wix \d+)?"
        r"( z (?P<z>\d+))?\)",
        "B - 03(fld 01 wv DAPI - DAPI).tif",
    ),
    FilePattern(
        "ScanR, ALMF",
        r"(?i)(--)?(?P<well>[A-P]\d{1,2}(?=--W)|(?<=--)W\d+)(--W\d+)?--(?P<site>P\d+)"
        r"--Z(?P<z>\d+)--T(?P<time>\d+)--(?P<channel>.+)",
        "B3--W00001--P00001--Z00000--T00000--DAPI.tif",
    ),
    FilePattern(
        "ImageXpress",
        rf"(?i)((?P<plate>.+)_)?{_WELL}(?=_s\d|_w\d)(_(?P<site>s\d+))?"
        rf"(_(?P<channel>w\d{{1,2}}?))?{_GUID}",
        "Plate_B03_s1_w1.tif",
    ),
    FilePattern(
        "Cytation, Gen5",
        rf"(?i){_WELL}_\d+_\d+_(?P<site>\d+)_(?P<channel>[^_]+)_(?P<time>\d+)",
        "B3_01_1_1_DAPI_001.tif",
    ),
    FilePattern(
        "ArrayScan",
        rf"(?i)(?P<plate>.+)_{_WELL}(?P<site>f\d+)(?P<channel>d\d+)",
        "Plate_B03f01d0.TIF",
    ),
    FilePattern("plate, well, site, channel", r"(?i)(?P<plate>[^_]+)_" + _WELL
                + r"_(?P<site>[a-z]*\d+)_(?P<channel>[^_]+)", "plate1_B03_site1_DAPI.tif"),
    FilePattern("well, site, channel", rf"(?i){_WELL}_(?P<site>[a-z]*\d+)_(?P<channel>[^_]+)",
                "B03_1_DAPI.tif"),
    FilePattern("well, site", rf"(?i){_WELL}_(?P<site>[a-z]*\d+)", "B03_1.tif"),
)  # fmt: skip
FOLDER_A_CONDITION = FilePattern("a folder a condition", "{condition}/{field}", "DMSO/image 1.tif")
FILE_A_FIELD = FilePattern("each file a field", "{field}", "image 1.tif")

# Words that a person calls untreated cells, and those that make something else of them.
_CONTROL = (
    r"dmso|controls?|ctrls?|ctl|untreated|mock|vehicles?|negatives?|neg|wt|wild[\W_]?type|"
    r"unstimulated|unperturbed|non[\W_]?targeting|scrambled?"
)
_OTHER = r"positives?|pos|non|not|in|with|plus|and|vs"
_NOT_LETTERS = r"(?<![^\W_]){}(?![^\W_])"

_LABELS_FOLDERS = {
    "mask", "masks", "label", "labels", "cells", "seg", "segmentation", "segmentations", "cp_masks",
}  # fmt: skip
_LABELS_NAME = re.compile(
    r"(?P<stem>.+?)[\W_]*[\W_](?P<kind>(cp[\W_])?masks?|mask[a-z]+|labels?|cells|segmentation|seg)"
    r"([\W_]\d+)?",
    re.IGNORECASE,
)


def stem(file: PurePath) -> str:
    """Name of a file without its ending, as napari would call it without .ome."""
    return re.sub(r"\.ome$", "", file.stem, flags=re.IGNORECASE)


def own_pattern(text: str) -> FilePattern:
    """A pattern that a person has written, such as ``{well}_{site}_{channel}``."""
    return FilePattern("own pattern", text)


def suggest_patterns(files: Sequence[PurePath]) -> list[tuple[FilePattern, int]]:
    """Patterns that names fit, the best one first.

    Parameters
    ----------
    files : sequence of Path
        Images, without masks and thumbnails.

    Returns
    -------
    list of (FilePattern, int)
        Each with how many names fit. A named pattern comes first where it fits at least half of
        them; else folders that are called like controls are conditions, and every file is a field.
    """
    counts = [(pattern, sum(map(bool, pattern.read(files)))) for pattern in PATTERNS]
    fitting = sorted(((p, n) for p, n in counts if n), key=lambda found: -found[1])
    plain = [(FOLDER_A_CONDITION, len(files)), (FILE_A_FIELD, len(files))]
    if not any(is_control(file.parent.name) for file in files):
        plain.reverse()
    if fitting and 2 * fitting[0][1] >= len(files):
        return [*fitting, *plain]
    return [*plain, *fitting]


def is_control(condition: str) -> bool:
    """Whether a condition is called as untreated cells are, by a whole word.

    "DMSO", "untreated cells" and "wild type" are; "mockingbird", "positive control" and "taxol in
    DMSO" are not.
    """
    text = condition.casefold()
    found = re.search(_NOT_LETTERS.format(f"({_CONTROL})"), text)
    return found is not None and not re.search(
        rf"\+|{_NOT_LETTERS.format(f'({_OTHER})')}(?![\W_]?targeting)", text
    )


def is_thumbnail(file: PurePath) -> bool:
    """Whether a microscope wrote the file as a small picture of another."""
    return re.search("_thumb", file.stem, re.IGNORECASE) is not None


def labels_stem(file: PurePath) -> tuple[str, str]:
    """What is left of the name of a file without what calls it labels, and the word that does.

    The word is empty where neither the name nor the folder says so.
    """
    match = _LABELS_NAME.fullmatch(stem(file))
    if match is not None:
        return match["stem"], match["kind"].lower()
    return stem(file), "folder" if file.parent.name.lower() in _LABELS_FOLDERS else ""


def folders_in_common(file: PurePath, other: PurePath) -> int:
    """How many folders two files share, from the top."""
    pairs = zip(file.parent.parts, other.parent.parts, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def differing(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The shortest name for each of several folders by which they differ.

    Parameters
    ----------
    paths : iterable of tuple of str
        Different folders, as their parts.

    Returns
    -------
    dict
        A single part where one tells all apart, the last such one, else all that are not common.

    Examples
    --------
    >>> differing([("data", "P1", "images"), ("data", "P2", "images")])
    {('data', 'P1', 'images'): 'P1', ('data', 'P2', 'images'): 'P2'}
    """
    paths = list(dict.fromkeys(paths))
    deepest = max(map(len, paths), default=0)
    for place in reversed(range(deepest)):
        if len({path[place : place + 1] for path in paths}) == len(paths) and all(
            len(path) > place for path in paths
        ):
            return {path: path[place] for path in paths}
    common = 0
    while len({path[: common + 1] for path in paths}) == 1 and common < deepest:
        common += 1
    return {path: "_".join(path[common:]) for path in paths}
