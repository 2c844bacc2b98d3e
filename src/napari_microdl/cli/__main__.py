"""``python -m napari_microdl.cli``."""

from napari_microdl.cli.command import main

raise SystemExit(main())
