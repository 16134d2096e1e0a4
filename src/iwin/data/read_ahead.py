"""Shards fetched before they are needed, in the order in which they will be, while training goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from iwin.data.cache import NoRoom, ShardCache
from iwin.data.fetch import Stop
from iwin.data.file_lock import release
from iwin.errors import ConfigError


class ReadAhead:
    """A thread that has the coming shards in `cache`, and keeps them there until they are done with.

    ahead: shards beyond the one at the position. With blocks of K shards whose samples are mixed, the position is
        the first of the block in use, and 2 K - 1 is that block and the next.

    Each rank of a node may run one: what one has fetched the others find. Where the cache has no room for the whole
    window, because other ranks hold other shards, it is filled as far as there is, and again when the position moves.
    It belongs to the process that made it; in a forked one nothing of it runs, and nothing is kept.

    Raises ConfigError where the window, and a shard that a process may need besides, are more than the cache may hold.
    """

    def __init__(self, cache: ShardCache, ahead: int) -> None:
        need = (ahead + 2) * cache.largest
        if need > cache.limit_bytes:
            raise ConfigError(
                f"reading {ahead} shards ahead takes a cache of {need:,} bytes, as shards have up to "
                f"{cache.largest:,}; it may hold {cache.limit_bytes:,}. Allow it more, or read fewer ahead."
            )
        self.cache = cache
        self.ahead = ahead
        self._order: Sequence[str] = ()
        self._position = 0
        self._held: dict[str, int] = {}
        self._moves = 0
        self._full_at = -1  # the move after which there was no room
        self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._stop = Stop()
        self._thread: threading.Thread | None = None

    def want(self, order: Sequence[str], position: int = 0) -> None:
        """From now on the names of the coming shards are `order`; it may go on into the next epoch.

        What is held of the order before and is not within the new window is given up. Raises what the thread raised
        since the last call.
        """
        with self._changed:
            self._order = order
            self._move(position)

    def at(self, position: int) -> None:
        """Whatever stands in the order before `position` is done with. Raises what the thread raised since."""
        with self._changed:
            self._move(position)

    def close(self) -> None:
        """End the thread, with what it is fetching, and give up what is held; nothing is raised.

        Where the thread waits for another process that fetches the same shard, it ends after that.
        """
        with self._changed:
            self._closed = True
            self._give_up(set())
            self._changed.notify_all()
        self._stop.ask()
        if self._thread is not None:
            self._thread.join(self.cache.patience.timeout_s)

    def _window(self) -> list[str]:
        return list(dict.fromkeys(self._order[self._position : self._position + self.ahead + 1]))

    def _move(self, position: int) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise RuntimeError("this ReadAhead was closed")
        self._position = position
        self._give_up(set(self._window()))
        self._moves += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="iwin-read-ahead", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _give_up(self, window: set[str]) -> None:
        for name in self._held.keys() - window:
            release(self._held.pop(name))

    def _next(self) -> str | None:
        return next((name for name in self._window() if name not in self._held), None)

    def _run(self) -> None:
        try:
            while (waited := self._wait()) is not None:
                name, moves = waited
                try:
                    held = self.cache.hold(name, self._stop)
                except NoRoom:
                    self._full_at = moves
                    continue
                with self._changed:
                    if self._closed or name not in self._window():
                        release(held)
                    else:
                        self._held[name] = held
                        self._changed.notify_all()
        except asyncio.CancelledError:
            return  # by close
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait(self) -> tuple[str, int] | None:
        """The shard to fetch next and the move that asked for it, once there is one; None to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._full_at != self._moves and self._next() is not None))
            name = self._next()
            return None if self._closed or name is None else (name, self._moves)
