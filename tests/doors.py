from __future__ import annotations

import re
from pathlib import Path

import pytest


class Door:
    """The first example of a page of docs, its entry point, and the package it could come in."""

    def __init__(self, page: str) -> None:
        text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
        self.example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
        (self.entry,) = re.findall(r"\[project\.entry-points\.(.+?\n.+?\n)", text)
        self.module = re.search(r' = "(.+?)"', self.entry)[1]

    def install(self, folder: Path, monkeypatch: pytest.MonkeyPatch, code: str = "") -> None:
        """What pip leaves of the package."""
        (folder / f"{self.module}.py").write_text(code or self.example)
        about = folder / f"{self.module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {self.module}\nVersion: 1.0\n"
        )
        (about / "entry_points.txt").write_text("[" + self.entry.replace('"', ""))
        monkeypatch.syspath_prepend(str(folder))
