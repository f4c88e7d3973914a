"""What is kept on a link: set up on each connection, whenever it was added, and gone once it is closed."""

import asyncio
import threading

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from servers import NatsServer

from lwd.log.nats_link import NatsLink


class Listens:
    """Hears one subject; its setting up can be held, so that a test decides what happens meanwhile."""

    def __init__(self, subject: str, *, held: bool = False) -> None:
        self.subject = subject
        self.begun, self.listening, self.heard = threading.Event(), threading.Event(), threading.Event()
        self.go_on = threading.Event()
        if not held:
            self.go_on.set()

    async def connected(self, client: Client) -> Subscription:
        self.begun.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        subscription = await client.subscribe(self.subject, cb=self._take)
        self.listening.set()
        return subscription

    def close(self) -> None:
        pass

    async def _take(self, message: Msg) -> None:
        self.heard.set()


def is_heard(link: NatsLink, kept: Listens) -> bool:
    for _ in range(20):
        link.publish(kept.subject, b"{}")
        if kept.heard.wait(0.25):
            return True
    return False


def test_what_is_added_while_a_connection_is_being_set_up_is_set_up_too(nats_server: NatsServer):
    with NatsLink(nats_server.url) as link:
        first, second = Listens("test.first", held=True), Listens("test.second")
        link.keep(first)
        assert first.begun.wait(20.0)
        link.keep(second)
        # A call that the loop answers only after it took in the second one.
        taken = threading.Event()
        link.call_soon(taken.set)
        assert taken.wait(20.0)
        first.go_on.set()
        assert is_heard(link, second)
        assert is_heard(link, first)


def test_what_is_closed_while_it_is_being_set_up_hears_nothing(nats_server: NatsServer):
    with NatsLink(nats_server.url) as link:
        link.publish("test.up", b"{}")  # the connection stands
        first, other = Listens("test.closed", held=True), Listens("test.other")
        keeping = link.keep(first)
        assert first.begun.wait(20.0)
        keeping.close()
        link.keep(other)
        first.go_on.set()
        assert first.listening.wait(20.0)
        assert is_heard(link, other)
        link.publish(first.subject, b"{}")
        other.heard.clear()
        assert is_heard(link, other)  # what came before this one has arrived
        assert not first.heard.is_set()
