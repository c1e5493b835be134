"""Environments in a few worker processes, several in each.

They talk through pipes. Waking two workers costs a step about 0.1 ms, whatever carries the data; sending eight Atari
frames adds 0.03 ms to the 1.4 ms that the environments take, which is what shared memory could save of.
"""

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from a2c_ppo_acktr.envs.vector import DummyEnvs, EnvFactory, EnvironmentCrash, Envs, join_steps
from a2c_ppo_acktr.interfaces import StepArrays, Tree, UnreadableState
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.signals import SIGNALS
from a2c_ppo_acktr.spaces import concatenate
from a2c_ppo_acktr.utils import UsageError

REACHING_IN = ("get_attr", "set_attr", "env_method", "env_is_wrapped")
"""Requests that fail without harm where there is no such attribute: SB3's `has_attr` asks in this way."""


def _work(pipe: Any, factories: Sequence[EnvFactory], clip_actions: bool, first: int, seed: int) -> None:
    """Serve one chunk of environments until the pipe closes, which it does when the parent dies, however it dies."""
    for signum in SIGNALS:  # what reaches the whole group is for the parent to decide; programs that we start get it
        signal.signal(signum, lambda received, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    envs: DummyEnvs | None = None
    seed_everything(seed + first)  # environments may draw from the generators of the whole process
    try:
        envs = DummyEnvs(factories, clip_actions, first)
        pipe.send(("spaces", (envs.observation_space, envs.action_space, envs.signal_spaces, envs.render_mode)))
        while True:
            pipe.send(_answer(envs, *pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UsageError as error:
        pipe.send((UsageError, str(error)))
    except EnvironmentCrash as crash:
        pipe.send((EnvironmentCrash, str(crash)))
    except Exception:  # whatever a third-party environment raises is reported where the user reads it
        pipe.send((EnvironmentCrash, traceback.format_exc()))
    finally:
        if envs is not None:
            envs.close()


def _answer(envs: DummyEnvs, method: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """What a method gives, or why it cannot; anything else that it raises ends the worker."""
    try:
        return "result", getattr(envs, method)(*args, **kwargs)
    except UnreadableState as error:
        return UnreadableState, str(error)
    except AttributeError as error:
        if method not in REACHING_IN:
            raise
        return AttributeError, str(error)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """What is started within never sees them: not the server that workers are forked from, nor they until they do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers(pipes: Sequence[Any], processes: Sequence[Any]) -> None:
    """Ask by closing their pipes, then insist."""
    for pipe in pipes:
        pipe.close()
    deadline = time.monotonic() + 1.0
    for process in processes:
        process.join(timeout=max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


class SubprocEnvs(Envs):
    """`DummyEnvs` chunks in worker processes.

    Args:
        factories: one per environment; functions that can be pickled.
        num_workers: processes; environments are spread evenly, in order.
        clip_actions: keep continuous actions within their bounds.
        seed: of the random generators that the whole of a worker shares, NumPy's global one among them.
        first: the number of the first environment, where these are part of more.
    """

    backend = "subproc"

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        num_workers: int,
        clip_actions: bool = True,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        self._slices: list[slice] = []
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._end = Finalize(self, _end_workers, (self._pipes, self._processes), exitpriority=1)
        for chunk in np.array_split(np.arange(len(factories)), num_workers):
            parent, child = context.Pipe()
            own = [factories[i] for i in chunk]
            arguments = child, own, clip_actions, first + int(chunk[0]), seed
            process = context.Process(target=_work, args=arguments, daemon=True)
            with _blocked_signals():
                process.start()
            child.close()
            self._slices.append(slice(int(chunk[0]), int(chunk[-1]) + 1))
            self._pipes.append(parent)
            self._processes.append(process)
        described = [self._receive(worker) for worker in range(num_workers)]
        observation_space, action_space, self.signal_spaces, self._render_mode = described[0]
        super().__init__(len(factories), observation_space, action_space)

    def _receive(self, worker: int) -> Any:
        try:
            kind, value = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError) as error:
            code = self._processes[worker].exitcode
            raise EnvironmentCrash(f"environment worker {worker} died (exit code {code})") from error
        if kind is EnvironmentCrash:
            raise EnvironmentCrash(f"in worker {worker}: {value}")
        if kind in (UnreadableState, UsageError, AttributeError):
            raise kind(value)
        return value

    def _send(self, worker: int, method: str, *args: Any, **kwargs: Any) -> None:
        try:
            self._pipes[worker].send((method, args, kwargs))
        except (BrokenPipeError, ConnectionResetError):
            self._receive(worker)  # says why it is gone

    def _each(self, method: str, args_of: Callable[[slice], tuple[Any, ...]]) -> list[Any]:
        """Call `method` in all workers at once, each with the arguments for its environments."""
        for worker, part in enumerate(self._slices):
            self._send(worker, method, *args_of(part))
        results, unreadable = [], None
        for worker in range(len(self._slices)):
            try:
                results.append(self._receive(worker))
            except UnreadableState as error:  # once every answer has been taken from its pipe
                unreadable = error
        if unreadable is not None:
            raise unreadable
        return results

    def reset(self) -> Tree:
        """See `DummyEnvs`."""
        results = self._each("reset_arrays", lambda part: (self._seeds[part],))
        self._reset_seeds()
        self._signals = concatenate([signals for _, signals in results])
        return concatenate([obs for obs, _ in results])

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        steps: list[StepArrays] = self._each("step_arrays", lambda part: (actions[part],))
        step = join_steps(steps)
        self._signals = step.signals
        return step

    def get_state(self) -> Any:
        """See `Envs`."""
        states = self._each("get_state", lambda part: ())
        return None if any(state is None for state in states) else [one for state in states for one in state]

    def set_state(self, state: Any) -> None:
        """See `Envs`."""
        self._each("set_state", lambda part: (state[part],))

    def close(self) -> None:
        """End the workers, at the latest when the program ends."""
        self._end()

    def _of_indices(self, method: str, indices: Any, *args: Any, **kwargs: Any) -> list[Any]:
        results = []
        for i in self._get_indices(indices):
            worker = next(w for w, part in enumerate(self._slices) if part.start <= i < part.stop)
            self._send(worker, method, *args, indices=[i - self._slices[worker].start], **kwargs)
            result = self._receive(worker)
            results.append(result[0] if result is not None else None)
        return results

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """See `DummyEnvs`."""
        if attr_name == "render_mode":
            return [self._render_mode for _ in self._get_indices(indices)]
        return self._of_indices("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """See `DummyEnvs`."""
        self._of_indices("set_attr", indices, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """See `DummyEnvs`."""
        return self._of_indices("env_method", indices, method_name, *args, **kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """See `DummyEnvs`."""
        return self._of_indices("env_is_wrapped", indices, wrapper_class)
