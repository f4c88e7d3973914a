"""How a service's status reaches the catalogue: over the broker like a robot's, or straight where it has a catalogue."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from lwd.errors import StoreError
from lwd.fleet.folder import RunFolder
from lwd.fleet.service import ServiceContext
from lwd.log.catalogue import Catalogue
from lwd.log.status import StatusRow, record_statuses

log = logging.getLogger(__name__)


@contextmanager
def reporting(context: ServiceContext, folder: RunFolder) -> Generator[None]:
    """Write this service's status into the catalogue every two seconds, until the block ends.

    Services have the catalogue anyway; only robots, which have none, report over the broker. So a service that lost the
    broker can still be seen to wait for it.
    """
    with Catalogue(folder.catalogue) as catalogue:

        def tell(status: dict[str, Any]) -> None:
            now = time.time()
            row = StatusRow(
                name=context.name, role=context.role, sent_at=now, received_at=now, payload=status
            )
            try:
                record_statuses(catalogue, [row])
            except StoreError as error:
                log.debug("status_not_written cause=%r", str(error))

        with context.telling(tell):
            yield
