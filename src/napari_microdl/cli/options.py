"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_microdl.core.config import PipelineConfig, read_config

DictionaryFile = Annotated[Path, Argument(help="*.microdl.safetensors file.")]
Table = Annotated[
    Path,
    Argument(
        help="CSV, TSV or Parquet file with a row a field: FileName_<channel>, "
        "PathName_<channel> and Metadata_* columns."
    ),
]
Out = Annotated[Path, Option(metavar="DIR", help="Folder for the results.")]
SettingsFile = Annotated[
    Path | None,
    Option(
        "--config",
        metavar="FILE",
        help="Settings, as the window or an earlier run saved them (JSON).",
    ),
]
Controls = Annotated[
    str | None,
    Option(
        metavar="QUERY",
        help="Which fields are controls, such as \"Metadata_condition == 'DMSO'\"; else the "
        "column Metadata_control says so.",
    ),
]
Atlas = Annotated[
    bool,
    Option("--atlas", help="Also write atlas.html, a card a concept on a page to send to others."),
]
Figures = Annotated[
    int,
    Option(
        "--figures",
        metavar="N",
        min=0,
        help="Also write a figure of one page (PDF) for each of the N most telling concepts.",
    ),
]
Metadata = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Plate maps or conditions of wells: barcode_platemap.csv, a plate map, or a table "
        "with well, or row and column. A barcode_platemap.csv that lies there is found.",
    ),
]
Overwrite = Annotated[
    bool,
    Option(
        "--overwrite",
        help="Replace the run that is there, which stays until the new one is whole; names and "
        "notes of the same concepts are kept.",
    ),
]
Download = Annotated[
    bool,
    Option(
        "--download",
        help="Fetch weights that are not here from the Hugging Face hub; else nothing is fetched.",
    ),
]


def settings_of(file: Path | None) -> PipelineConfig:
    """Settings of a file; the defaults where there is none."""
    return PipelineConfig() if file is None else read_config(file)
