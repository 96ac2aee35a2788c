"""Gives scenes to actors until all are made.

An actor is starting, idle or busy. When it dies, Ray restarts it, on another node if its own is gone; it gets scenes again when it is
ready. Its scene goes back into the queue.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

# Seconds between two looks at the progress of scenes.
LOOK = 0.5
# How often an actor may die before it is ready, and seconds until it is tried again.
STARTS, PAUSE = 5, 2.0


class FilmError(RuntimeError):
    """A film cannot be made: no worker is left, or a scene failed again and again."""


@dataclass
class Pool:
    """Workers, all alike. `retries` is how often a scene may be lost before the film fails."""

    actors: list[Any]
    retries: int = 5
    # By the reference that each waits for: an actor, and the number and first frame of its scene (`None`: it starts).
    waiting: dict[Any, tuple[Any, tuple[int, int] | None]] = field(default_factory=dict)
    lost: int = 0
    failed_starts: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for actor in self.actors:
            self._start(actor)

    def _start(self, actor: Any) -> None:
        self.waiting[actor.ready.remote()] = (actor, None)

    def ask(self, method: str) -> Any:
        """What the method of an actor whose model is open returns. Raises what it raises, or what opening the model raised."""
        while self.waiting:
            for reference in ray.wait(list(self.waiting), num_returns=1)[0]:
                actor, _ = self.waiting.pop(reference)
                if not self._is_alive(actor, reference):
                    continue
                self._start(actor)
                try:
                    return ray.get(getattr(actor, method).remote())
                except RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except RayActorError:
                    continue  # another one
        raise FilmError("no worker could be started; see Ray's log for the reason")

    def _is_alive(self, actor: Any, reference: Any) -> bool:
        """Whether an actor that was starting is ready. If it died before, it starts again; if Ray has given it up, it is left out. Raises
        what opening the model raised."""
        try:
            ray.get(reference)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ActorDiedError:
            self.actors.remove(actor)
            return False
        except RayActorError:
            failed = self.failed_starts[actor] = self.failed_starts.get(actor, 0) + 1
            if failed < STARTS:
                time.sleep(PAUSE)
                self._start(actor)
            else:
                self.actors.remove(actor)
            return False
        self.failed_starts.pop(actor, None)
        return True

    def make(
        self, scenes: Iterable[tuple[int, int]], done: Callable[[int, list[tuple[str, bytes]]], None],
        look: Callable[[dict[int, Any]], None] = lambda running: None,
    ) -> None:
        """Makes scenes, given by number and first frame. Calls `done` with each, as they come, and `look` now and then with the actors of
        those that are being made."""
        queue, losses = deque(scenes), {}
        left, idle = len(queue), []
        while left:
            while queue and idle:
                actor, (scene, first) = idle.pop(), queue.popleft()
                self.waiting[actor.make.remote(scene, first)] = (actor, (scene, first))
            if not self.waiting:
                raise FilmError("no worker is left; start more nodes and run the same command again: finished scenes are kept")
            finished, _ = ray.wait(list(self.waiting), num_returns=1, timeout=LOOK)
            for reference in finished:
                actor, scene = self.waiting.pop(reference)
                if scene is None:
                    idle += [actor] if self._is_alive(actor, reference) else []
                elif (entries := self._entries(reference)) is not None:
                    done(scene[0], entries)
                    left -= 1
                    # It may be needed again, if another one dies.
                    idle.append(actor)
                else:
                    number = scene[0]
                    self.lost += 1
                    losses[number] = losses.get(number, 0) + 1
                    if losses[number] > self.retries:
                        raise FilmError(f"scene {number} was lost {losses[number]} times; its workers die while they make it")
                    queue.appendleft(scene)
                    self._start(actor)
            look({scene[0]: actor for actor, scene in self.waiting.values() if scene is not None})

    @staticmethod
    def _entries(reference: Any) -> list[tuple[str, bytes]] | None:
        """The entries of a scene; `None` if its actor died. Raises what making it raised."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except RayActorError:
            return None
