"""The state of a viewer in parts that say when they change; `session.Session` holds them.

images -> settings -> the chosen model -> what a run would be given -> the run that is on show.
"""
