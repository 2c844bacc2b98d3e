"""The samples: treated and control wells of BBBC016, and a plate that is drawn when asked for."""

from __future__ import annotations

import csv
import io
from importlib.resources import files

import pandas as pd
import tifffile

from napari_microdl.fields.field import Field
from napari_microdl.fields.simulator import simulate_plate


def transfluor() -> list[Field]:
    """Eight fields of U2OS cells in the Transfluor assay, four of them controls.

    Beta-arrestin tagged with GFP is spread through resting cells and gathers in bright spots where
    the receptor was activated. Well O01 shows both kinds of cell side by side. None of these images
    was used to train the built-in model. The conditions were inferred from a spot score and by eye,
    not read from a plate map.

    Returns
    -------
    list of Field
        Each of shape (1, 512, 512), uint8, channel ``"GFP"``, in the order of the wells. The
        condition is ``"diffuse"`` (resting, the controls) or ``"puncta"`` (activated).

    References
    ----------
    .. [1] BBBC016v1, Ilya Ravkin, CC BY 3.0; Ljosa, Sokolnicki and Carpenter, "Annotated
       high-throughput microscopy image sets for validation", Nature Methods 9, 637 (2012).
    """
    folder = files("napari_microdl").joinpath("data", "transfluor")
    table = folder.joinpath("conditions.csv").read_text(encoding="utf-8")
    fields = []
    for row in csv.DictReader(io.StringIO(table)):
        image = tifffile.imread(io.BytesIO(folder.joinpath(row["file"]).read_bytes()))
        fields.append(
            Field(
                data=image[None],
                channel_names=("GFP",),
                name=f"{row['Metadata_Well']}_{row['Metadata_Site']}",
                condition=row["condition"],
                is_control=row["is_control"] == "true",
                well=row["Metadata_Well"],
                site=row["Metadata_Site"],
            )
        )
    return fields


def simulated() -> tuple[list[Field], pd.DataFrame]:
    """The plate of the tutorial: four control wells, four of larger cells, four of translocation.

    Returns
    -------
    fields : list of Field
        Each of shape (2, 256, 256), uint16, channels ``"DNA"`` and ``"RNA"``, with labels; controls
        first.
    truth : pandas.DataFrame
        What was planted, a row a cell; see `napari_microdl.fields.simulator.simulate_plate`.
    """
    return simulate_plate(
        {"size": {"size": 0.6}, "translocation": {"translocation": 0.6}},
        n_control_wells=4,
        n_wells=4,
        spread=0.25,
        n_cells=24,
        shape=(256, 256),
        channels=("DNA", "RNA"),
        seed=1,
    )
