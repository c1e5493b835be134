"""Films: a file that grows picture by picture, and the camera that films whole episodes of a training."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from a2c_ppo_acktr.envs.border import Misfit, reason, show
from a2c_ppo_acktr.envs.declared import DEFAULT_FPS, frame_rate
from a2c_ppo_acktr.utils import UsageError

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".avi": "avi"}
SMALLEST_SIDE = 96


class Film:
    """RGB pictures written to a video file as they come, so that memory does not grow with its length.

    The file gets its name when it is closed; ffmpeg, which compresses, works on a temporary one beside it.

    Args:
        path: of the file; its ending says which kind: mp4, mkv, mov or avi.
        fps: pictures per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps, self.count, self.white = path, fps, 0, 0.0
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.program = _ffmpeg()
        if path.suffix not in CONTAINERS:
            raise UsageError(f"{path}: a film's name ends in {', '.join(CONTAINERS)}")
        self.process: subprocess.Popen[bytes] | None = None
        self.size: tuple[int, ...] = ()

    def add(self, given: Any) -> None:
        """Append a picture as `render` gave it.

        Raises:
            Misfit: it is none, or not of the first one's size.
        """
        self.white = max(self.white, white_of(read_picture(given)))  # which a dark picture does not tell
        picture = as_picture(given, self.white)
        if self.process is None:
            self.size, self.process = picture.shape, self._start(*picture.shape[:2])
        if picture.shape != self.size:
            (height, width, _), (first_height, first_width, _) = picture.shape, self.size
            sizes = f"{height} x {width} after {first_height} x {first_width}"
            raise Misfit(f"render() gave a picture of {sizes}, expected one size in a film")
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(picture.data)
        except OSError as error:
            raise self._failure() from error
        self.count += 1

    def _start(self, height: int, width: int) -> "subprocess.Popen[bytes]":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary.unlink(missing_ok=True)  # ffmpeg would write through a link
        raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self.fps:g} -i -".split()
        coded = "-an -c:v libx264 -preset veryfast -crf 23 -pix_fmt yuv420p -threads 1".split()
        # Without `file:` a name that begins as an option or a protocol would be one.
        target = ["-f", CONTAINERS[self.path.suffix], f"file:{os.path.abspath(self.temporary)}"]
        # Ctrl-C and SIGTERM are for the training, which ends the film itself: ffmpeg is born blocking them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return subprocess.Popen(
                [self.program, "-y", "-loglevel", "error", *raw, *coded, *target],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def close(self) -> None:
        """Finish the file; without a picture there is none."""
        if self.process is None:
            return
        _, said = self.process.communicate()
        if self.process.returncode != 0:
            raise self._failure(said)
        os.replace(self.temporary, self.path)
        self.process = None

    def discard(self) -> None:
        """Leave no file."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
            self.temporary.unlink(missing_ok=True)

    def _failure(self, said: bytes | None = None) -> OSError:
        if said is None and self.process is not None:
            _, said = self.process.communicate()
        self.discard()
        return OSError(f"cannot write {self.path}: {(said or b'').decode(errors='replace').strip() or 'ffmpeg ended'}")


def read_picture(given: Any) -> np.ndarray:
    """What a renderer gave as numbers `[H, W, 3]`, or 1 in place of 3 for grey.

    Raises:
        Misfit: it is no picture.
    """
    expected = "expected numbers of shape [height, width, 3] (or 4 with alpha, 1 or none for grey)"
    try:
        pixels = np.asarray(given)
    except Exception as error:  # whatever else a renderer may give
        raise Misfit(f"render() gave {show(given)}, {expected}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    is_picture = pixels.ndim == 3 and pixels.shape[-1] in (1, 3, 4) and pixels.dtype.kind in "biuf" and pixels.size
    if not is_picture:
        raise Misfit(f"render() gave {show(given)}, {expected}")
    return pixels[..., :3]


def white_of(pixels: np.ndarray) -> float:
    """The number that is white: 255, or 1 of flags and of floats among which none is larger."""
    if pixels.dtype.kind == "f":
        return 255.0 if np.nanmax(pixels, initial=0.0) > 1.0 else 1.0
    return 1.0 if pixels.dtype.kind == "b" else 255.0


def as_picture(given: Any, white: float | None = None) -> np.ndarray:
    """Bytes `[H, W, 3]`, enlarged where it is tiny (MinAtar's is 10 x 10), with even sides as codecs want them.

    Args:
        given: what a renderer gave (see `read_picture`).
        white: the number that is white; None goes by this picture alone (see `white_of`).
    """
    picture = read_picture(given)
    if picture.dtype != np.uint8:
        scale = 255.0 / (white_of(picture) if white is None else white)
        picture = (np.nan_to_num(picture) * scale).clip(0.0, 255.0).astype(np.uint8)
    if picture.shape[2] == 1:
        picture = picture.repeat(3, 2)
    factor = -(-SMALLEST_SIDE // min(picture.shape[:2]))
    if factor > 1:
        picture = picture.repeat(factor, 0).repeat(factor, 1)
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


class Camera:
    """Films every `every`-th episode of one environment, each from its first picture to its last, into its own file.

    It begins before a run has a folder, since environments are reset first; `start` says where films go.

    Args:
        every: episodes `every`, `2 * every`, ... are filmed, counted from 1 over the whole run.
    """

    def __init__(self, every: int) -> None:
        self.every, self.fps = every, float(DEFAULT_FPS)
        _ffmpeg()
        self.folder: Path | None = None
        self.on_film: Callable[[Path, int], None] | None = None
        self.episode, self.env_steps = 1, 0
        self.early: list[np.ndarray] = []
        self.film: Film | None = None
        self.failure: OSError | None = None

    def start(
        self, folder: Path, *, episodes: int, env_steps: int, on_film: Callable[[Path, int], None] | None = None
    ) -> None:
        """Say where a run stands, and film the running episode if its beginning was seen.

        Args:
            folder: of the films, `episode-<number>-step-<env_steps at its beginning>.mp4`.
            episodes: how many episodes of this environment are over.
            env_steps: steps of all environments so far; whoever steps them counts on.
            on_film: called with each finished file and the count of steps.
        """
        self.folder, self.on_film = folder, on_film
        self.episode, self.env_steps = episodes + 1, env_steps
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()  # of this run, when it was killed
        if self.early and self.due:
            self._begin(*self.early)
        self.early = []

    def __call__(self, render: Callable[[], np.ndarray], first: bool, last: bool) -> None:
        """See one moment of the environment; `first` and `last` of its episode.

        What went wrong with a file is kept in `failure`, for the environment, which calls this, has not failed.
        """
        if self.folder is None:
            self.early = [] if first else self.early
            self.early.append(_try(render))  # a reset's own steps, such as FIRE in Atari, follow its first picture
            return
        try:
            self._see(render, first, last)
        except OSError as error:
            self.failure = error
            self.skip()

    def _see(self, render: Callable[[], np.ndarray], first: bool, last: bool) -> None:
        if first:
            self.skip()
            if self.due:
                self._begin(render())
        elif self.film is not None:
            self.film.add(render())
        if last:
            self._end()

    @property
    def due(self) -> bool:
        """Whether the running episode is one to film."""
        return self.episode % self.every == 0

    def _begin(self, *pictures: np.ndarray) -> None:
        assert self.folder is not None
        self.film = Film(self.folder / f"episode-{self.episode}-step-{self.env_steps}.mp4", self.fps)
        for picture in pictures:
            self.film.add(picture)

    def _end(self) -> None:
        self.episode += 1
        if self.film is not None:
            film, self.film = self.film, None
            film.close()
            if self.on_film is not None:
                self.on_film(film.path, self.env_steps)

    def skip(self) -> None:
        """Do not film the running episode: it has no beginning, or will have no end."""
        self.early = []
        if self.film is not None:
            self.film.discard()
            self.film = None


class ChosenEpisodes:
    """Films some episodes of one environment: `films` by the number of the episode, counted from 0."""

    def __init__(self, films: dict[int, Film]) -> None:
        self.films, self.episode = films, -1

    def __call__(self, render: Callable[[], np.ndarray], first: bool, last: bool) -> None:
        """See `Camera`."""
        self.episode += first
        if (film := self.films.get(self.episode)) is not None:
            film.add(render())
            if last:
                film.close()
                del self.films[self.episode]


@contextlib.contextmanager
def filming(envs: Any, quota: Sequence[int], films: Mapping[int, str | Path]) -> Iterator[None]:
    """Film chosen episodes of an evaluation; those that do not end leave no file.

    Args:
        envs: N environments, made for pictures and not yet reset.
        quota: `[N]` episodes that each plays.
        films: file by the episode's place in the result, which is environment after environment.

    Raises:
        UsageError: there is no such episode, or there are no pictures.
    """
    if not films:
        yield
        return
    if envs.get_attr("render_mode", [0])[0] != "rgb_array":
        raise UsageError("films need environments made with render_mode='rgb_array'")
    fps = frame_rate(envs.get_attr("metadata", [0])[0])
    ends = np.cumsum(quota)
    chosen: dict[int, dict[int, Film]] = {}
    for episode, path in films.items():
        if not 0 <= episode < ends[-1]:
            raise UsageError(f"no film of episode {episode}: the episodes are 0 to {ends[-1] - 1}")
        env = int(np.searchsorted(ends, episode, side="right"))
        chosen.setdefault(env, {})[int(episode - ends[env] + quota[env])] = Film(Path(path), fps)
    for env, own in chosen.items():
        envs.set_attr("camera", ChosenEpisodes(own), [env])
    try:
        yield
    finally:
        for env, own in chosen.items():
            envs.set_attr("camera", None, [env])
            for film in own.values():
                film.discard()


def _try(render: Callable[[], np.ndarray]) -> np.ndarray:
    """A picture at the start of a run, when what is missing for pictures shows."""
    try:
        return read_picture(render()).copy()  # the next one may be drawn in the same place
    except Exception as error:  # every simulator has its own way of saying that it cannot draw here
        raise UsageError(f"--capture-video: no picture can be drawn: {reason(error)}") from error


def _ffmpeg() -> str:
    """The program that compresses films."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"films need the video extra ({error}): pip install -e '.[video]'") from error
