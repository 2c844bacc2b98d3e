"""The stages of a run, each from the results of those before it, as generators that can be stopped.

fields -> labels (`segmenting`) and tokens (`reading`) -> samples (`pooling`) -> whitened samples
(`whitening`) -> dictionary (`learning`) -> activations (`encoding`). `run`
puts them together.
"""
