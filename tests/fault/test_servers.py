"""The servers of the tests can be killed and come back with what they had."""

import urllib.request

import pytest
import sqlalchemy as sa
from servers import NatsServer, PostgresServer, S3Server

from lwd.errors import StoreError
from lwd.log.catalogue import Catalogue
from lwd.log.nats_bus import NatsBus
from lwd.log.nats_link import NatsLink


def test_postgres_killed_in_mid_use_keeps_what_was_committed(own_postgres_server: PostgresServer):
    url = own_postgres_server.create_database("fleet")
    with Catalogue(url) as catalogue:
        with catalogue.write() as connection:
            connection.execute(sa.text("INSERT INTO info (key, value) VALUES ('here', 'yes')"))
        own_postgres_server.kill()
        with pytest.raises(StoreError):
            catalogue.head("manifest")
        own_postgres_server.start()
        with catalogue.read() as connection:
            assert connection.execute(sa.text("SELECT value FROM info WHERE key = 'here'")).scalar() == "yes"


def test_nats_killed_comes_back_on_its_store(own_nats_server: NatsServer):
    with NatsLink(own_nats_server.url, backoff_s=(0.05, 0.2)) as link:
        bus = NatsBus(link)
        bus.prepare()
        bus.publish("episodes.r1", {"a": 1})
        own_nats_server.restart()
        assert [message.payload for message in bus.consume("episodes.*", wait_s=10.0)] == [{"a": 1}]


def test_s3_answers_again_after_a_pause(s3_server: S3Server):
    s3_server.create_bucket("paused")
    s3_server.pause()
    with pytest.raises(OSError, match="timed out"):
        urllib.request.urlopen(s3_server.url, timeout=0.5)
    s3_server.resume()
    urllib.request.urlopen(f"{s3_server.url}/paused", timeout=30).close()
