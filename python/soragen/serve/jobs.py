"""The table of jobs, in SQLite, and their files. Both outlive the process."""

from __future__ import annotations

import fcntl
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

OPEN = ("queued", "in_progress")
FILES = {"video": ("video.mp4", "video/mp4"), "thumbnail": ("thumbnail.webp", "image/webp"), "spritesheet": ("spritesheet.jpg", "image/jpeg")}


@dataclass
class Job:
    """A row. Times are Unix seconds; `order` counts the jobs."""

    id: str
    model: str
    prompt: str
    seconds: str
    width: int
    height: int
    created_at: int
    order: int = 0
    status: str = "queued"
    progress: int = 0
    completed_at: int | None = None
    expires_at: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    remixed_from: str | None = None
    picture: bool = False  # whether there is a file `picture`
    attempts: int = 0
    seed: int = 0

    def answer(self) -> dict:
        """As the interface has it."""
        error = None
        if self.status == "failed":
            error = {"code": self.error_code or "server_error", "message": self.error_message or "the generation failed"}
        return {
            "id": self.id, "object": "video", "model": self.model, "status": self.status, "progress": self.progress,
            "created_at": self.created_at, "completed_at": self.completed_at, "expires_at": self.expires_at,
            "seconds": self.seconds, "size": f"{self.width}x{self.height}", "prompt": self.prompt,
            "remixed_from_video_id": self.remixed_from, "error": error,
        }


COLUMNS = [field.name for field in fields(Job)]
TYPES = {"id": "TEXT PRIMARY KEY", "order": "INTEGER"}
INTEGERS = ("width", "height", "created_at", "progress", "completed_at", "expires_at", "picture", "attempts", "seed")


class Jobs:
    """All jobs. Its methods may be called from any thread, and raise `Failure` if the table cannot be read or written."""

    Failure = sqlite3.OperationalError

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # One service has the folder. The lock ends with the process.
        self._owner = (folder / "lock").open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._table = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._table.row_factory = sqlite3.Row
        self._table.execute("PRAGMA journal_mode = WAL")
        self._table.execute("PRAGMA synchronous = FULL")
        columns = ", ".join(f'"{name}" {TYPES.get(name, "INTEGER" if name in INTEGERS else "TEXT")}' for name in COLUMNS)
        self._table.execute(f"CREATE TABLE IF NOT EXISTS jobs ({columns})")
        self._table.execute('CREATE INDEX IF NOT EXISTS by_order ON jobs ("order")')
        self._table.execute("CREATE INDEX IF NOT EXISTS by_status ON jobs (status)")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._table.execute("BEGIN IMMEDIATE")
            try:
                yield self._table
            except BaseException:
                self._table.execute("ROLLBACK")
                raise
            self._table.execute("COMMIT")

    def _rows(self, where: str, values: tuple = ()) -> list[Job]:
        with self._lock:
            rows = self._table.execute(f"SELECT * FROM jobs {where}", values).fetchall()
        return [Job(**{name: row[name] for name in COLUMNS}) for row in rows]

    def files(self, job: str) -> Path:
        """The folder of a job."""
        return self.folder / "files" / job

    @staticmethod
    def new_id() -> str:
        return f"video_{secrets.token_hex(16)}"

    def add(self, job: Job) -> None:
        with self._writing() as table:
            row = table.execute('SELECT coalesce(max("order"), 0) + 1 FROM jobs').fetchone()
            job.order = row[0]
            names = ", ".join(f'"{name}"' for name in COLUMNS)
            table.execute(f"INSERT INTO jobs ({names}) VALUES ({', '.join('?' * len(COLUMNS))})", [getattr(job, name) for name in COLUMNS])

    def get(self, job: str) -> Job | None:
        found = self._rows("WHERE id = ?", (job,))
        return found[0] if found else None

    def count_open(self) -> int:
        with self._lock:
            return self._table.execute("SELECT count(*) FROM jobs WHERE status IN (?, ?)", OPEN).fetchone()[0]

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self._lock:
            return dict(self._table.execute("SELECT status, count(*) FROM jobs GROUP BY status").fetchall())

    def page(self, after: Job | None, limit: int, ascending: bool) -> tuple[list[Job], bool]:
        """Jobs in the order of their creation, and whether there are more."""
        sign, direction = (">", "ASC") if ascending else ("<", "DESC")
        where, values = ("", ()) if after is None else (f'WHERE "order" {sign} ?', (after.order,))
        found = self._rows(f'{where} ORDER BY "order" {direction} LIMIT ?', (*values, limit + 1))
        return found[:limit], len(found) > limit

    def queued(self, most: int) -> list[Job]:
        """The oldest ones."""
        return self._rows("WHERE status = 'queued' ORDER BY \"order\" LIMIT ?", (most,))

    def resume(self) -> None:
        """After a restart: what was in progress is queued again, and files without a job are removed."""
        with self._writing() as table:
            table.execute("UPDATE jobs SET status = 'queued', progress = 0 WHERE status = 'in_progress'")
            known = {row[0] for row in table.execute("SELECT id FROM jobs")}
        for files in (self.folder / "files").glob("video_*"):
            if files.name not in known:
                shutil.rmtree(files, ignore_errors=True)

    def take(self, job: str) -> int:
        """Counts an attempt at a queued job, and returns how many there were; 0 if it is no longer queued."""
        with self._writing() as table:
            table.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ? AND status = 'queued'", (job,))
            row = table.execute("SELECT attempts FROM jobs WHERE id = ? AND status = 'queued'", (job,)).fetchone()
            return row[0] if row else 0

    def begin(self, job: str) -> bool:
        """Whether this call began a queued job."""
        with self._writing() as table:
            return table.execute("UPDATE jobs SET status = 'in_progress' WHERE id = ? AND status = 'queued'", (job,)).rowcount == 1

    def requeue(self, job: str) -> None:
        """A job whose worker died is made again."""
        with self._writing() as table:
            table.execute("UPDATE jobs SET status = 'queued', progress = 0 WHERE id = ? AND status = 'in_progress'", (job,))

    def tell(self, job: str, progress: int) -> None:
        with self._writing() as table:
            table.execute("UPDATE jobs SET progress = max(progress, ?) WHERE id = ? AND status = 'in_progress'", (progress, job))

    def complete(self, job: str, keep_seconds: float) -> None:
        now = int(time.time())
        with self._writing() as table:
            table.execute(
                "UPDATE jobs SET status = 'completed', progress = 100, completed_at = ?, expires_at = ? WHERE id = ? AND status = 'in_progress'",
                (now, now + int(keep_seconds), job),
            )

    def fail(self, job: str, code: str, message: str, keep_seconds: float) -> None:
        now = int(time.time())
        with self._writing() as table:
            table.execute(
                "UPDATE jobs SET status = 'failed', error_code = ?, error_message = ?, completed_at = ?, expires_at = ? WHERE id = ?",
                (code, message[:2000], now, now + int(keep_seconds), job),
            )

    def delete(self, job: str) -> bool:
        # The files first: the table may need their room on the disk.
        shutil.rmtree(self.files(job), ignore_errors=True)
        with self._writing() as table:
            return table.execute("DELETE FROM jobs WHERE id = ?", (job,)).rowcount == 1

    def expired(self) -> list[str]:
        return [job.id for job in self._rows("WHERE expires_at IS NOT NULL AND expires_at < ?", (int(time.time()),))]

    def close(self) -> None:
        with self._lock:
            self._table.close()
            self._owner.close()
