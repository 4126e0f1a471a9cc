"""igpt report: one page about finished runs."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from igpt_jax.cli.common import Command
from igpt_jax.cli.output import writing
from igpt_jax.errors import InputError
from igpt_jax.files import local_path


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """One page about runs: figures beside the paper's, curves, probes, pictures, settings."""

    workdirs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Workdirs of igpt train; what igpt probe wrote there is shown, too."""
    out: str = "report.html"
    """.html, with the pictures inside, or .md, with links to them."""

    def run(self) -> None:
        from igpt_jax.analysis.page import page
        from igpt_jax.files import replace_file

        out = local_path(self.out, "--out")
        if not self.workdirs:
            raise InputError("report: name one workdir or several")
        if out.suffix not in (".html", ".md"):
            raise InputError(f"--out {out}: must end in .html or .md")
        text = page([local_path(name, "report") for name in self.workdirs], out)
        with writing(out), replace_file(out) as file:
            file.write(text.encode())
        print(out)
