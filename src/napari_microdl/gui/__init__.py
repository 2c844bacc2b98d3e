"""The napari plugin: the only group of modules that knows napari and Qt."""
