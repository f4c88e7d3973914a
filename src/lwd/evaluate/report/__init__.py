"""One self-contained HTML page about a run.

Needs the extra `lwd[report]` when a page is written, not on import.
"""

from lwd.evaluate.report.write import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]
