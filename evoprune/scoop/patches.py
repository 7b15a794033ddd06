"""The changes to SCOOP 0.7.2.0 within the process of the script and the workers, each with its reason."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import scoop
import zmq
from scoop import _control, _types, encapsulation, futures, shared
from scoop._comm.scoopzmq import ZMQCommunicator
from zmq.utils.monitor import recv_monitor_message

from evoprune.errors import LostTaskError
from evoprune.scoop.broker import Keys, Kind, bracketed, set_heartbeat
from evoprune.system import signals


@dataclass(frozen=True)
class Connection:
    """The way from a process to the broker.

    Attributes:
        name: The process's name, unique in the run.
        title: Host and process id.
        host: Address of the broker.
        port: Its port.
        is_remote: It is on another host.
        keys: Keys of the run, without the secret one of the broker.
    """

    name: str
    title: str
    host: str
    port: int
    is_remote: bool
    keys: Keys


class Communicator(ZMQCommunicator):  # type: ignore[misc]
    """SCOOP's communicator over one encrypted connection to the launcher's broker.

    SCOOP's own communicator also listens on every interface, for results that come directly from other workers. It resends
    tasks of which the broker has lost track, even if they are being done. And it sends from a separate thread, over a socket
    that is not made for that.

    Attributes:
        sent: Bytes of the tasks that were sent from here.
        received: Bytes of their results.
    """

    def __init__(self, connection: Connection) -> None:
        self.sent = self.received = 0
        self.inbox: deque[list[bytes]] = deque()
        self.broker_set = {scoop.BROKER}  # sendRequest sends one request to each
        scoop.worker = connection.name.encode()
        shared.elements = {}
        self.ZMQcontext = zmq.Context()
        self.socket = self.createZMQSocket(zmq.DEALER)
        self.socket.identity = scoop.worker
        self.socket.curve_serverkey = connection.keys.broker_public
        self.socket.curve_publickey = connection.keys.worker_public
        self.socket.curve_secretkey = connection.keys.worker_secret
        if connection.is_remote:  # on this host, the launcher may be stopped and continued
            set_heartbeat(self.socket)
        monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED)
        threading.Thread(target=end_with_connection, args=(monitor,), daemon=True).start()
        self.socket.connect(f"tcp://{bracketed(connection.host)}:{connection.port}")
        self.socket.send_multipart([Kind.INIT, connection.title.encode()])

    def pumpInfoSocket(self) -> None:  # noqa: N802 - SCOOP's names
        """Takes the messages that have arrived: shared constants at once; the others are kept for :meth:`recvFuture`."""
        while self.socket.poll(0):
            kind, *frames = self.socket.recv_multipart()
            if kind == Kind.VARIABLE:
                name, value, owner = map(unpickle, frames)
                shared.elements.setdefault(owner, {})[name] = value
                if isinstance(value, encapsulation.FunctionEncapsulation):
                    self.convertVariable(owner, name, value)
            elif kind != Kind.PING:
                self.inbox.append([kind, *frames])

    def _poll(self, timeout: int) -> bool:
        self.pumpInfoSocket()
        return bool(self.inbox) or bool(self.socket.poll(timeout))

    def recvFuture(self) -> Iterator[Any]:  # noqa: N802
        """Yields the tasks and results that have arrived."""
        self.pumpInfoSocket()
        while self.inbox:
            kind, task_id, content = self.inbox.popleft()
            if kind == Kind.TASK:
                future = self._task(task_id, content)
            else:
                self.received += len(task_id) + len(content)
                future = self._result(task_id, kind, content)
            if future is not None:
                yield future

    def sendFuture(self, future: Any) -> None:  # noqa: N802
        """Sends a task to the broker.

        Raises:
            TypeError: It cannot be pickled; SCOOP would send a name that no worker knows, and end all workers.
        """
        if future._ended():  # SCOOP's flush sends ended ones, too
            return
        future = copy.copy(future)
        future.greenlet, future.children = None, {}
        if shared.getConst(hash(future.callable), timeout=0):
            future.callable = shared.SharedElementEncapsulation(hash(future.callable))
        task_id = pickle.dumps(future.id, pickle.HIGHEST_PROTOCOL)
        try:
            content = pickle.dumps(future, pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(f"{future.callable} and its arguments cannot be sent to workers: {error}") from error
        self.sent += len(task_id) + len(content)
        self.socket.send_multipart([Kind.TASK, task_id, content])

    def sendResult(self, future: Any) -> None:  # noqa: N802
        """Sends a result to the broker; with the traceback of an exception, and as a failure if it cannot be pickled."""
        future = copy.copy(future)
        task_id = pickle.dumps(future.id, pickle.HIGHEST_PROTOCOL)
        future.callable = future.args = future.kargs = future.greenlet = None
        try:
            if future.exceptionValue is not None:
                future.exceptionValue = sendable(future.exceptionValue, future.exceptionTraceback)
            content = pickle.dumps(future, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 - a result that cannot be pickled; SCOOP would end all workers
            self._fail(task_id, f"the result cannot be pickled:\n{traceback.format_exc()}")
        else:
            self.socket.send_multipart([Kind.REPLY, task_id, content])

    def sendStatusRequest(self, future: Any) -> None:  # noqa: N802
        """Does nothing: the broker knows which worker does which task, and SCOOP would do tasks twice."""

    def limit(self, seconds: float) -> None:
        """Limits the task of this worker to so many seconds from now; then the worker is ended, and the task is lost."""
        self.socket.send_multipart([Kind.LIMIT, str(seconds).encode()])

    def shutdown(self) -> None:
        """Closes the connection; the launcher sees by the end of the script that the run is over."""
        scoop.SHUTDOWN_REQUESTED = True
        self.socket.close(0)

    def _fail(self, task_id: bytes, reason: str) -> None:
        self.socket.send_multipart([Kind.FAILED, task_id, reason.encode()])

    def _task(self, task_id: bytes, content: bytes) -> Any:
        """Returns a task to do; None for one that this process cannot do, and then it requests another."""
        try:
            return unpickle(content)
        except Exception:  # noqa: BLE001 - such as a module that this host lacks; SCOOP would end all workers
            self._fail(task_id, f"the task cannot be unpickled:\n{traceback.format_exc()}")
            self.sendRequest()
            return None

    def _result(self, task_id: bytes, kind: bytes, content: bytes) -> Any:
        """Returns the future of a reply, or a future that ended with an exception; None if nobody waits for it."""
        try:
            if kind == Kind.REPLY:
                return unpickle(content)
            error: Exception = LostTaskError(content.decode())
        except Exception as unpickling:  # noqa: BLE001 - raised by the future
            error = unpickling
        future = copy.copy(_control.futureDict.get(unpickle(task_id)))
        if future is not None:
            future.isDone, future.exceptionValue, future.children = True, error, {}
        return future


def unpickle(content: bytes) -> Any:
    """Unpickles a message from a process of this run; other processes lack its keys."""
    return pickle.loads(content)  # noqa: S301


def sendable(error: BaseException, text: str) -> Exception:
    """Returns an exception that crosses the wire, with a worker's traceback as a note.

    An exception that ends its process, ``SystemExit``, must not end the script, and neither may one that cannot be unpickled
    there: another takes its place.
    """
    note = f"in a worker:\n{text}"
    if isinstance(error, Exception):
        with contextlib.suppress(Exception):
            error.add_note(note)
            unpickle(pickle.dumps(error))
            return error
    replaced = RuntimeError(f"a task ended by {error!r}")
    replaced.add_note(note)
    return replaced


def end_with_connection(monitor: zmq.Socket[bytes]) -> None:
    """Ends the process when the connection breaks; the launcher notices, and starts another."""
    recv_monitor_message(monitor)
    if not scoop.SHUTDOWN_REQUESTED:
        os.killpg(0, signal.SIGKILL)


@dataclass
class ExitStatus:
    """Runs the script, and keeps its exit status, which SCOOP loses."""

    status: int | str | None = 0

    def run(self, script: Callable[[], Any]) -> None:
        """Runs the script; its errors are shown as Python shows them."""
        try:
            with signals.interruptible():
                script()
        except SystemExit as end:
            self.status = end.code
        except KeyboardInterrupt:
            print(signals.STOPPED, file=sys.stderr)
            self.status = signals.INTERRUPTED
        except BaseException:  # noqa: BLE001 - shown; no code of the script runs after it
            traceback.print_exc()
            self.status = 1
        finally:
            signals.end_at_once()


def patch_script(connection: Connection) -> ExitStatus:
    """Patches SCOOP in the process of the script.

    Returns:
        An object that has the exit status of the script once it has run.
    """
    exit_status = ExitStatus()
    stock_startup, stock_append, stock_pop = futures._startup, _types.FutureQueue.append, _types.FutureQueue.pop

    def startup(script: Callable[[], Any]) -> Any:
        return stock_startup(exit_status.run, script)

    def append(queue: Any, future: Any) -> None:
        # The script does no task: a mask that kills or hangs would end the run, and results and signals would wait.
        if future._ended() or future.greenlet is not None:
            stock_append(queue, future)
        else:
            queue.socket.sendFuture(future)

    def pop(queue: Any) -> Any:
        # While the script waits, signals come to SCOOP's controller instead of the script's handlers, which save and clean up.
        try:
            return stock_pop(queue)
        except BaseException as raised:  # noqa: BLE001 - by a handler of the script
            return _control.current.greenlet.throw(raised)

    futures._startup = startup
    _types.FutureQueue.append, _types.FutureQueue.pop = append, pop
    _types.FutureQueue.requestFuture = lambda queue: None
    del _types.FutureQueue.__del__  # it was shut down before, and modules are gone when Python ends
    _types.Communicator = lambda: Communicator(connection)
    return exit_status


def patch_worker(connection: Connection) -> None:
    """Patches SCOOP in a worker."""
    # These signals go to the script, which decides; a worker would take Ctrl-C for an error of its task, and SIGUSR1 kills.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _types.Communicator = lambda: Communicator(connection)
