"""Foundation models by name."""

from __future__ import annotations

from napari_microdl.errors import MicrodlError
from napari_microdl.models.base import Precision, TokenModel

MODEL_NAMES = ("builtin", "random-init")


def load_model(
    name: str = "builtin", *, device: str = "auto", precision: Precision = "fp32", seed: int = 0
) -> TokenModel:
    """Load a model.

    Parameters
    ----------
    name : {"builtin", "random-init"}
        The trained model of the package, or the same architecture untrained as a baseline.
    device : {"auto", "cpu", "cuda", "mps"}
        Where it runs.
    precision : {"fp32", "bf16"}
        Arithmetic of the forward pass.
    seed : int, default=0
        Seed of an untrained model.

    Returns
    -------
    TokenModel

    Raises
    ------
    MicrodlError
        If the name, the device or the precision is not known.
    """
    if name not in MODEL_NAMES:
        raise MicrodlError(f"Model '{name}' is not known; choose one of {', '.join(MODEL_NAMES)}.")
    # torch takes seconds to import, so the names above can be listed without it.
    from napari_microdl.models.builtin import load_builtin, random_init

    if name == "builtin":
        return load_builtin(device, precision)
    return random_init(device, precision, seed)
