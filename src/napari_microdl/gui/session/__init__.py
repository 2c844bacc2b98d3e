"""The state of a viewer, in layers that each build on the one before.

images -> settings of the run -> the chosen model -> what a run would be given -> how up to date
each step is. `napari_microdl.gui.session.session` adds what came of runs and what is on show.
"""
