"""The entry point: reads a run directory, leaves `report.html` in it."""

from __future__ import annotations

import os
from pathlib import Path

from lwd.errors import LwdError
from lwd.evaluate.jsonfile import ResultError
from lwd.evaluate.report.run import read_run

REPORT_NAME = "report.html"


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    The page is one file without outside parts. Files that the run does not have leave a section that says so;
    see docs/reference/run_directory.md. Needs `pip install 'lwd[report]'`.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ResultError(
            str(run_dir), "is not a directory. Expected the run directory that `lwd demo` wrote."
        )
    try:
        # Here and not at the top: matplotlib and jinja2 come with an extra that robots lack.
        from lwd.evaluate.report.page import render
    except ImportError as error:
        raise LwdError(
            f"the report needs {error.name or 'a package'}, which is missing: pip install 'lwd[report]'."
        ) from error
    html = render(read_run(run_dir), run_dir.resolve().name)
    path = run_dir / REPORT_NAME
    part = path.with_name(f".{REPORT_NAME}.{os.getpid()}.part")
    part.write_text(html, encoding="utf-8")
    part.replace(path)
    return path
