"""The broker: it hands tasks to idle workers and results to the owners of the tasks; tasks of a dead worker are done again.

SCOOP's own broker listens on every interface and unpickles messages from anyone, dies with the first peer that cannot be
reached, and does not notice the death of a worker. This one takes its place, and speaks its protocol: multipart messages of
:class:`Kind` and frames. It unpickles nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq
from zmq.auth.thread import ThreadAuthenticator

# Milliseconds. A connection on which nothing arrives for so long is closed.
HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT = 3_000, 60_000
REMEMBERED = 100
DOMAIN = "evoprune"


class Kind:
    """First frame of a message; SCOOP's kinds have the values that they have there."""

    INIT = b"I"  # worker: here I am; its title
    REQUEST = b"RQ"  # worker: I have nothing to do
    TASK = b"T"  # id, pickled future
    REPLY = b"RP"  # id, pickled future
    VARIABLE = b"V"  # name, value, owner: a shared constant
    FAILED = b"F"  # worker: I cannot do this task; id, reason
    LIMIT = b"L"  # worker: seconds that my task may still take
    LOST = b"X"  # to the owner of a task: nobody can do it; id, reason
    PING = b"P"  # to a worker: are you there?


@dataclass(frozen=True)
class Keys:
    """CURVE keys of a run, as Z85 text: of the broker, and the one pair of all its workers."""

    broker_public: bytes
    broker_secret: bytes
    worker_public: bytes
    worker_secret: bytes

    @classmethod
    def make(cls) -> Keys:
        """Returns new keys."""
        return cls(*zmq.curve_keypair(), *zmq.curve_keypair())

    def callback(self, domain: str, key: bytes) -> bool:
        """Tells ZeroMQ's authenticator whether the holder of a key may connect."""
        return key == self.worker_public


@dataclass
class Task:
    """A task that is not finished.

    Attributes:
        id: Its id.
        payload: The pickled future.
        owner: The process that sent it.
        worker: The worker that does it; None while it waits.
        since: The time at which the worker began.
        deaths: Number of workers that died while they did it.
        named: A message has said that it takes long.
    """

    id: bytes
    payload: bytes
    owner: bytes
    worker: bytes | None = None
    since: float = 0.0
    deaths: int = 0
    named: bool = False


@dataclass
class Peer:
    """A process that is connected.

    Attributes:
        title: Host and process id.
        tasks: Number of tasks that it has done.
        busy: Seconds that they took.
        since: The time of its first request for a task; None before that.
        deadline: The time by which its task must be finished; None for no limit.
    """

    title: str
    tasks: int = 0
    busy: float = 0.0
    since: float | None = None
    deadline: float | None = None


@dataclass
class Broker:
    """The broker.

    Attributes:
        host: Address on which it listens.
        keys: Keys of the run.
        most_deaths: Number of workers that may die at a task before it is given up.
        port: Port on which it listens.
        peers: The connected processes, by name.
        tasks: Unfinished tasks by id.
    """

    host: str
    keys: Keys
    most_deaths: int = 3
    port: int = 0
    peers: dict[bytes, Peer] = field(default_factory=dict)
    tasks: dict[bytes, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self.idle: deque[bytes] = deque()
        self.gone: set[bytes] = set()
        self.variables: dict[tuple[bytes, bytes], list[bytes]] = {}
        self.durations: deque[float] = deque(maxlen=REMEMBERED)
        self.handlers: dict[bytes, Callable[..., None]] = {
            Kind.INIT: self._on_init,
            Kind.REQUEST: self._on_request,
            Kind.TASK: self._on_task,
            Kind.REPLY: self._on_reply,
            Kind.VARIABLE: self._on_variable,
            Kind.FAILED: self._on_failed,
            Kind.LIMIT: self._on_limit,
        }
        self.context = zmq.Context()
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.authenticator.configure_curve_callback(DOMAIN, self.keys)
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.curve_server = True
        self.socket.zap_domain = DOMAIN.encode()
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without its authenticator, nobody may connect
        self.socket.curve_publickey, self.socket.curve_secretkey = self.keys.broker_public, self.keys.broker_secret
        self.socket.ipv6 = ipaddress.ip_address(self.host).version == 6
        self.socket.router_mandatory = True  # a message that cannot be delivered is an error, and is not dropped silently
        self.socket.sndhwm = self.socket.rcvhwm = 0
        set_heartbeat(self.socket)
        self.socket.linger = 0
        self.port = self.socket.bind_to_random_port(f"tcp://{bracketed(self.host)}")

    def serve(self, seconds: float) -> None:
        """Handles the messages that arrive within so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self.socket.poll(round(1000 * left)):
            self._handle(self.socket.recv_multipart())

    def drain(self) -> None:
        """Handles the messages that have arrived."""
        while self.socket.poll(0):
            self._handle(self.socket.recv_multipart())

    def _handle(self, message: list[bytes]) -> None:
        sender, kind, *frames = message
        if kind in self.handlers:
            self.handlers[kind](sender, *frames)

    def dismiss(self, name: bytes) -> None:
        """Gives no more tasks to a worker that is about to be ended, even if it finishes its task just now."""
        self.gone.add(name)
        if name in self.idle:
            self.idle.remove(name)

    def remove(self, name: bytes, reason: str, give_up: bool = False) -> None:
        """Forgets a worker whose process has ended; its task is done again, or given up.

        Args:
            name: The worker's name.
            reason: The reason why it ended.
            give_up: Do not try its task again.
        """
        self.dismiss(name)
        self.peers.pop(name, None)
        for task in [task for task in self.tasks.values() if task.owner == name]:  # tasks of a task that is done again
            self._close(task)
        for task in [task for task in self.tasks.values() if task.worker == name]:
            task.deaths += 1
            task.worker = None
            if give_up:
                self._give_up(task, reason)
            elif task.deaths >= self.most_deaths:
                self._give_up(task, f"{task.deaths} workers ended at it; the last: {reason}")
            else:
                self.waiting.appendleft(task)
        self._hand_out()

    def overdue(self) -> list[bytes]:
        """Returns the workers that are past their deadline."""
        now = time.monotonic()
        return [name for name, peer in self.peers.items() if peer.deadline is not None and now > peer.deadline]

    def unreachable(self) -> list[bytes]:
        """Returns the workers that are no longer connected, such as those on a host that hangs."""
        return [name for name in list(self.peers) if not self._send(name, Kind.PING)]

    def stragglers(self, factor: float, least: float) -> list[tuple[str, float, float]]:
        """Returns workers with a task that takes long: title, seconds so far, median seconds of earlier tasks; each once.

        Args:
            factor: A task takes long after more than so many times the median.
            least: And after more than so many seconds.
        """
        if not self.durations:
            return []
        now, median = time.monotonic(), statistics.median(self.durations)
        slow = [t for t in self.tasks.values() if t.worker in self.peers and not t.named]
        slow = [t for t in slow if now - t.since > max(least, factor * median)]
        for task in slow:
            task.named = True
        return [(self.peers[task.worker].title, now - task.since, median) for task in slow if task.worker is not None]

    def close(self) -> None:
        """Closes the socket."""
        self.socket.close()
        self.authenticator.stop()
        self.context.destroy(0)

    def _on_init(self, sender: bytes, title: bytes) -> None:
        if sender in self.gone:  # its process ended before this was read
            return
        self.peers[sender] = Peer(title.decode())
        for frames in self.variables.values():
            self._send(sender, Kind.VARIABLE, *frames)

    def _on_request(self, sender: bytes) -> None:
        peer = self.peers.get(sender)
        if peer is None or sender in self.gone:  # it has ended meanwhile, or is about to be
            return
        if peer.since is None:
            peer.since = time.monotonic()
        if sender not in self.idle:  # one task at a time, so that none waits beside an idle worker
            self.idle.append(sender)
        self._hand_out()

    def _on_task(self, sender: bytes, task_id: bytes, payload: bytes) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            task = self.tasks[task_id] = Task(task_id, payload, sender)
        elif task.worker == sender:  # a worker gives it back, since it does a task that another of its tasks waits for
            task.worker = None
        else:
            return
        self.waiting.append(task)
        self._hand_out()

    def _on_reply(self, sender: bytes, task_id: bytes, payload: bytes) -> None:
        task = self._finish(sender, task_id)
        if task is not None:
            self._send(task.owner, Kind.REPLY, task_id, payload)

    def _on_failed(self, sender: bytes, task_id: bytes, reason: bytes) -> None:
        task = self._finish(sender, task_id)
        if task is not None:
            self._send(task.owner, Kind.LOST, task_id, reason)

    def _on_limit(self, sender: bytes, seconds: bytes) -> None:
        if sender in self.peers:
            self.peers[sender].deadline = time.monotonic() + float(seconds)

    def _on_variable(self, sender: bytes, name: bytes, value: bytes, owner: bytes) -> None:
        if self.variables.get((owner, name)) == [name, value, owner]:
            return  # SCOOP sends it again and again until it has come back
        self.variables[owner, name] = [name, value, owner]
        for peer in self.peers:
            self._send(peer, Kind.VARIABLE, name, value, owner)

    def _finish(self, sender: bytes, task_id: bytes) -> Task | None:
        """Closes a task that a worker has done, and returns it; None if nobody waits for it any more."""
        task = self.tasks.get(task_id)
        if sender in self.peers:
            self.peers[sender].deadline = None
        if task is None:
            return None
        self._close(task)
        if sender in self.peers and task.worker == sender:
            seconds = time.monotonic() - task.since
            self.durations.append(seconds)
            self.peers[sender].tasks += 1
            self.peers[sender].busy += seconds
        return task

    def _give_up(self, task: Task, reason: str) -> None:
        self._close(task)
        self._send(task.owner, Kind.LOST, task.id, reason.encode())

    def _close(self, task: Task) -> None:
        del self.tasks[task.id]
        if task.worker is None and task in self.waiting:
            self.waiting.remove(task)

    def _hand_out(self) -> None:
        while self.waiting and self.idle:
            task, worker = self.waiting.popleft(), self.idle.popleft()
            if not self._send(worker, Kind.TASK, task.id, task.payload):
                self.waiting.appendleft(task)
                continue
            task.worker, task.since, task.named = worker, time.monotonic(), False
            if task.owner == worker:  # which needs no reply
                self._close(task)

    def _send(self, *frames: bytes) -> bool:
        """Sends a message; returns False if its receiver is gone. The launcher notices that its process has ended."""
        try:
            self.socket.send_multipart(frames)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return False
        return True


def set_heartbeat(socket: zmq.Socket[bytes]) -> None:
    """Lets a socket close connections on which nobody answers."""
    socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT


def bracketed(host: str) -> str:
    """Returns an address in the form that goes before a port."""
    return f"[{host}]" if ":" in host else host
