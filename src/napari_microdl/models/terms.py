"""What weights may be used for, in the words that window, command line and report share."""

from __future__ import annotations

from napari_microdl.models.base import ModelSpec

NO_COMMERCIAL_USE = "no commercial use"
NOT_STATED = "whether commercial use is allowed is not stated"


def commercial_use(non_commercial: bool | None) -> str:
    """Words for `ModelSpec.non_commercial`.

    Parameters
    ----------
    non_commercial : bool or None
        Whether the licence forbids commercial use; None where nobody has said so.

    Returns
    -------
    str
        Without a full stop.
    """
    if non_commercial is None:
        return NOT_STATED
    return NO_COMMERCIAL_USE if non_commercial else "commercial use is allowed"


def terms_of(spec: ModelSpec) -> str:
    """Licence of a model's weights, whether it forbids commercial use, and where they come from.

    Parameters
    ----------
    spec : ModelSpec
        The model, as it is known before its weights are fetched.

    Returns
    -------
    str
        Two sentences.

    Examples
    --------
    >>> from napari_microdl.models.registry import model_spec
    >>> terms_of(model_spec("unidino")).partition(". ")[0]
    'Licence of the weights: CC-BY-NC-4.0 (no commercial use)'
    """
    return (
        f"Licence of the weights: {spec.licence} ({commercial_use(spec.non_commercial)}). "
        f"Source: {spec.source or 'not stated'}."
    )
