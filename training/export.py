"""Write the averaged encoder: ``python training/export.py --run RUN --out FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file


def main() -> None:
    """Export a checkpoint of train.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    state = torch.load(arguments.run / "checkpoint.pt", weights_only=True)
    tensors = {name: value.numpy().astype(np.float16) for name, value in state["average"].items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.out, {"steps": str(state["step"]), "licence": "BSD-3-Clause"})
    print(f"{arguments.out}: step {state['step']}, {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
