"""TopK sparse autoencoder: the baseline that dictionaries of the paper are compared with."""

from napari_microdl.topk_sae.estimator import TopKSAE

__all__ = ["TopKSAE"]
