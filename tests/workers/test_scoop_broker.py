"""The broker's bookkeeping, message by message, with clients in this process."""

import time
from collections.abc import Iterator

import pytest
import zmq

from evoprune.scoop.broker import Broker, Keys, Kind


class Client:
    """A process as the broker sees it."""

    def __init__(self, broker: Broker, context: zmq.Context[zmq.Socket[bytes]], name: bytes) -> None:
        self.broker, self.name = broker, name
        self.socket = context.socket(zmq.DEALER)
        self.socket.identity, self.socket.linger = name, 0
        self.socket.curve_serverkey = broker.keys.broker_public
        self.socket.curve_publickey, self.socket.curve_secretkey = broker.keys.worker_public, broker.keys.worker_secret
        self.socket.connect(f"tcp://127.0.0.1:{broker.port}")
        self.send(Kind.INIT, b"title of " + name)
        end = time.monotonic() + 10
        while name not in broker.peers:
            assert time.monotonic() < end
            broker.serve(0.01)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)
        self.broker.serve(0.05)

    def receive(self) -> list[bytes] | None:
        return self.socket.recv_multipart() if self.socket.poll(200) else None


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker("127.0.0.1", Keys.make(), most_deaths=2)
    yield broker
    broker.close()


@pytest.fixture
def clients(broker: Broker) -> Iterator[tuple[Client, Client, Client]]:
    context = zmq.Context()
    yield tuple(Client(broker, context, name) for name in (b"script", b"a", b"b"))
    context.destroy(0)


Clients = tuple[Client, Client, Client]
TASK = [Kind.TASK, b"1", b"payload"]


def test_a_task_goes_to_an_idle_worker_and_its_result_back(broker: Broker, clients: Clients) -> None:
    script, a, b = clients
    script.send(*TASK)
    a.send(Kind.REQUEST)
    assert a.receive() == TASK
    b.send(Kind.REQUEST)
    a.send(Kind.REPLY, b"1", b"result")
    assert script.receive() == [Kind.REPLY, b"1", b"result"]
    assert (b.receive(), broker.tasks) == (None, {})
    assert (broker.peers[b"a"].tasks, broker.peers[b"b"].tasks) == (1, 0)


def test_one_task_at_a_time_however_often_a_worker_asks(clients: Clients) -> None:
    script, a, b = clients
    for _ in range(3):
        a.send(Kind.REQUEST)
    for number in (b"1", b"2"):
        script.send(Kind.TASK, number, b"payload")
    assert a.receive() == TASK
    assert a.receive() is None
    b.send(Kind.REQUEST)
    assert b.receive() == [Kind.TASK, b"2", b"payload"]


def test_what_a_dead_worker_held_is_done_first(broker: Broker, clients: Clients) -> None:
    script, a, b = clients
    a.send(Kind.REQUEST)
    for number in (b"1", b"2"):
        script.send(Kind.TASK, number, b"payload")
    broker.remove(b"a", "killed")
    b.send(Kind.REQUEST)
    assert b.receive() == TASK
    b.send(Kind.REPLY, b"1", b"result")
    a.send(Kind.REPLY, b"1", b"the same, said before it died")  # and read only now
    assert script.receive() == [Kind.REPLY, b"1", b"result"]
    assert script.receive() is None


def test_a_task_that_kills_is_given_up(broker: Broker, clients: Clients) -> None:
    script, a, b = clients
    script.send(*TASK)
    for worker in (a, b):
        worker.send(Kind.REQUEST)
        assert worker.receive() == TASK
        broker.remove(worker.name, f"{worker.name.decode()} was killed")
    assert script.receive() == [Kind.LOST, b"1", b"2 workers ended at it; the last: b was killed"]
    assert not broker.tasks


def test_a_worker_may_give_a_task_back(broker: Broker, clients: Clients) -> None:
    script, a, b = clients
    script.send(*TASK)
    a.send(Kind.REQUEST)
    assert a.receive() == TASK
    a.send(*TASK)
    broker.remove(b"a", "killed")
    assert broker.tasks[b"1"].deaths == 0
    b.send(Kind.REQUEST)
    assert b.receive() == TASK
    b.send(Kind.REPLY, b"1", b"result")
    assert script.receive() == [Kind.REPLY, b"1", b"result"]


def test_tasks_of_a_dead_owner_are_forgotten(broker: Broker, clients: Clients) -> None:
    _, a, b = clients
    a.send(*TASK)
    broker.remove(b"a", "killed")
    b.send(Kind.REQUEST)
    assert b.receive() is None


def test_a_late_worker_is_found_and_its_task_given_up(broker: Broker, clients: Clients) -> None:
    script, a, _ = clients
    script.send(*TASK)
    a.send(Kind.REQUEST)
    a.send(Kind.LIMIT, b"0.05")
    time.sleep(0.1)
    assert broker.overdue() == [b"a"]
    broker.remove(b"a", "too late", give_up=True)
    assert script.receive() == [Kind.LOST, b"1", b"too late"]


def test_who_is_late_and_just_finishes_gets_no_other_task(broker: Broker, clients: Clients) -> None:
    script, a, b = clients
    script.send(*TASK)
    a.send(Kind.REQUEST)
    assert a.receive() == TASK
    broker.dismiss(b"a")
    a.send(Kind.REPLY, b"1", b"result")
    a.send(Kind.REQUEST)
    script.send(Kind.TASK, b"2", b"payload")
    broker.remove(b"a", "it is late", give_up=True)
    assert script.receive() == [Kind.REPLY, b"1", b"result"]
    b.send(Kind.REQUEST)
    assert b.receive() == [Kind.TASK, b"2", b"payload"]
    assert script.receive() is None


def test_a_limit_ends_with_the_task(broker: Broker, clients: Clients) -> None:
    script, a, _ = clients
    script.send(*TASK)
    a.send(Kind.REQUEST)
    a.send(Kind.LIMIT, b"0.05")
    a.send(Kind.REPLY, b"1", b"result")
    time.sleep(0.1)
    assert broker.overdue() == []


def test_what_cannot_be_done_is_told(clients: Clients) -> None:
    script, a, _ = clients
    script.send(*TASK)
    a.send(Kind.REQUEST)
    a.send(Kind.FAILED, b"1", b"no such module")
    assert script.receive() == [Kind.LOST, b"1", b"no such module"]


def test_a_straggler_is_named_once(broker: Broker, clients: Clients) -> None:
    script, a, _ = clients
    broker.durations.extend([0.01, 0.01, 0.02])
    script.send(*TASK)
    a.send(Kind.REQUEST)
    assert broker.stragglers(3.0, least=10.0) == []
    time.sleep(0.05)
    ((title, seconds, median),) = broker.stragglers(3.0, least=0.0)
    assert (title, median) == ("title of a", 0.01)
    assert seconds > 0.05
    assert broker.stragglers(3.0, least=0.0) == []


def test_shared_constants_reach_those_that_come_later(broker: Broker, clients: Clients) -> None:
    script, a, _ = clients
    script.send(Kind.VARIABLE, b"name", b"value", b"script")
    assert a.receive() == script.receive() == [Kind.VARIABLE, b"name", b"value", b"script"]
    context = zmq.Context()
    late = Client(broker, context, b"c")
    assert late.receive() == [Kind.VARIABLE, b"name", b"value", b"script"]
    context.destroy(0)


def test_who_has_gone_is_unreachable(broker: Broker, clients: Clients) -> None:
    _, a, b = clients
    assert broker.unreachable() == []
    assert a.receive() == [Kind.PING]
    b.socket.close(0)
    end = time.monotonic() + 10
    while broker.unreachable() != [b"b"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_who_has_ended_is_not_heard_of_again(broker: Broker, clients: Clients) -> None:
    _, a, _ = clients
    broker.remove(b"a", "killed")
    a.send(Kind.INIT, b"title of a")  # read only now
    a.send(Kind.REQUEST)
    assert b"a" not in broker.peers
    assert not broker.idle


def test_a_workers_own_task_may_come_back_to_it(broker: Broker, clients: Clients) -> None:
    _, a, _ = clients
    a.send(*TASK)
    a.send(Kind.REQUEST)
    assert a.receive() == TASK
    assert not broker.tasks  # it does that by itself


def test_other_keys_are_refused(broker: Broker) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.curve_serverkey = broker.keys.broker_public  # it even knows that one
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(f"tcp://127.0.0.1:{broker.port}")
    socket.send_multipart([Kind.INIT, b"stranger"])
    broker.serve(1.0)
    assert not broker.peers
    context.destroy(0)
