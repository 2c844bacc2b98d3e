"""What napari finds in the manifest: menus, samples, readers and writers."""
