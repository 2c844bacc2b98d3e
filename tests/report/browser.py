"""Pages in a real browser: Chromium without a window."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_LONGEST_S = 120


def driven(page: str, script: str, folder: Path, *settings: str) -> Any:
    """What a script returns that runs at the end of a copy of a page.

    Parameters
    ----------
    page : str
        HTML.
    script : str
        JavaScript with a `return`.
    folder : Path
        For the copy and what the browser writes.
    *settings : str
        Of the engine, such as "preferredColorScheme=0".

    Returns
    -------
    object
        Values of JSON. The test is skipped where there is no browser, and fails there if it runs
        in CI.
    """
    browser = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium is on the PATH; scripts/system-deps installs it")
        pytest.skip("no Chromium is on the PATH; on Debian, apt-get install chromium")
    end = f"""<script>addEventListener("load", () => {{
        const answer = document.createElement("pre");
        answer.id = "answer";
        answer.textContent = JSON.stringify((() => {{ {script} }})());
        document.body.append(answer);
    }});</script></body>"""
    assert page.count("</body>") == 1
    file = folder / "page.html"
    file.write_text(page.replace("</body>", end), encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", f"--blink-settings={','.join(settings)}",
        "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=_LONGEST_S, check=True)
    shown = done.stdout.decode()
    match = re.search(r'<pre id="answer">(.*?)</pre>', shown, re.DOTALL)
    assert match is not None, shown[-2000:]
    return json.loads(html.unescape(match[1]))
