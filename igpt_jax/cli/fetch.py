"""igpt fetch: the weights that OpenAI released."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.filesize import decimal

from igpt_jax.cli.shared import CONSOLE, parse
from igpt_jax.interop.fetch import BASE_URL, Progress, fetch


@dataclass(frozen=True)
class FetchArgs:
    """Download OpenAI's released weights and their palette; the same command continues or verifies."""

    model: tyro.conf.Positional[Literal["igpt-s", "igpt-m", "igpt-l"]]
    bert: bool = False
    """The model trained to fill in masked pixels, instead of the autoregressive one."""
    step: int = 1_000_000
    """Of training: 131000, 262000, 524000 or 1000000."""
    out: Path | None = None
    """Directory for all files; by default weights/MODEL or weights/MODEL-bert."""
    base_url: str = BASE_URL
    """A mirror with the same folders."""


def fetch_command(args: list[str]) -> None:
    """igpt fetch MODEL [--bert] [--step N] [--out DIR]."""
    cli = parse(FetchArgs, args, "fetch", flags=True)
    out = cli.out or Path("weights") / (cli.model + ("-bert" if cli.bert else ""))
    print("igpt: the weights are OpenAI's, licence Modified MIT: https://github.com/openai/image-gpt", file=sys.stderr)
    with _progress() as progress:
        prefix = fetch(cli.model, out, bert=cli.bert, step=cli.step, base_url=cli.base_url, progress=progress)
    print(prefix)


class _Lines(Progress):
    """A line for every file, where there is no terminal."""

    def finished(self, name: str, size: int, how: str) -> None:
        print(f"{name}  {decimal(size)}  {how}", file=sys.stderr, flush=True)

    def waiting(self, name: str, why: str, seconds: float) -> None:
        print(f"{name}: {why}; next try in {seconds:g} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar over the whole download; plain lines where there is no terminal."""
    if not CONSOLE.is_terminal:
        yield _Lines()
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=CONSOLE) as bar:

        class Bar(Progress):
            def begin(self, work: str, total: int | None, done: int = 0) -> None:
                for task in bar.task_ids:
                    bar.remove_task(task)
                bar.add_task(work, total=total, completed=done)

            def moved(self, size: int) -> None:
                bar.update(bar.task_ids[0], advance=size)

            def waiting(self, name: str, why: str, seconds: float) -> None:
                bar.console.print(f"{name}: {why}; next try in {seconds:g} s", markup=False, highlight=False)

        yield Bar()
