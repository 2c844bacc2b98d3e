"""Repack eight fields of BBBC016 into the sample that the package carries.

Usage: python scripts/make_sample_data.py FOLDER

FOLDER holds `conditions.csv` and `images/` of the set (see CONTRIBUTING.md). Pixel values are kept
exactly; the linear grey colour map of the originals, which carries no information, is dropped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

# Site f00 is part of what the built-in model was trained on, so people are shown the other one.
SITE = "f01"
WELLS = ("O01", "O05", "O07", "O08", "O11", "O12", "O14", "O16")
TARGET = Path(__file__).parents[1] / "src" / "napari_microdl" / "data" / "transfluor"


def main(source: Path) -> None:
    """Write the images and their table of conditions."""
    table = pd.read_csv(source / "conditions.csv", dtype={"Metadata_Well": str})
    table = table[(table["Metadata_Site"] == SITE) & table["Metadata_Well"].isin(WELLS)]
    if sorted(table["Metadata_Well"]) != sorted(WELLS):
        raise SystemExit(f"{source / 'conditions.csv'} does not list every well of {WELLS}.")
    TARGET.mkdir(parents=True, exist_ok=True)
    for original in table["file"]:
        pixels = tifffile.imread(source / "images" / original)
        target = TARGET / f"{Path(original).stem}.tif"
        # Deflate with a horizontal predictor is read by tifffile alone, without imagecodecs.
        tifffile.imwrite(
            target,
            pixels,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": 9},
            predictor=True,
            metadata=None,
        )
        if not np.array_equal(tifffile.imread(target), pixels):
            raise SystemExit(f"{target.name} did not come back with the same pixels.")
    table = table.assign(file=[f"{Path(name).stem}.tif" for name in table["file"]])
    table = table.assign(is_control=table["is_control"].map({True: "true", False: "false"}))
    table.to_csv(TARGET / "conditions.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
