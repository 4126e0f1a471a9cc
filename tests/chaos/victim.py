"""A run that kills itself at a point of a save: python -m tests.chaos.victim WORKDIR STEPS KEEP [POINT NTH SKIP].

The points are found by Python's audit events (a file about to be made, renamed or removed), so nothing of Orbax is
replaced, and what is on disk then is what a power cut or the kernel's out-of-memory killer would leave.
"""

import dataclasses
import os
import re
import signal
import sys
import threading
from pathlib import Path

from tests.small_run import CFG

POINTS = ("before", "inside", "uncommitted", "committed", "deleting")
"""Nothing of the checkpoint is there; some of its arrays are; all is but its name; all is; an old one is half gone."""

TMP = re.compile(r"/checkpoints/\d+\.orbax-checkpoint-tmp$")
STEP = re.compile(r"/checkpoints/\d+$")


def config(steps, keep):
    """A checkpoint after every step."""
    often = dict(steps=steps, checkpoint_every=1, keep=keep, eval_every=10**6)
    optim = dataclasses.replace(CFG.optim, schedule="constant")  # the same program for any number of steps
    return dataclasses.replace(CFG, optim=optim, train=dataclasses.replace(CFG.train, **often))


class Killer:
    """An audit hook that ends the process by SIGKILL at a point of the nth save (or deletion), `skip` events later."""

    def __init__(self, point, nth, skip):
        self.point, self.left, self.skip = point, nth, skip
        self.tmp = self.final = self.deleter = None

    def __call__(self, event, args):
        if event == "os.kill":
            return  # its own
        if self.final:
            self.die(os.path.isdir(self.final))
        elif self.point == "deleting":
            self.on_delete(event, args)
        elif event == "os.mkdir" and TMP.search(str(args[0])):
            self.left -= 1
            self.tmp = Path(args[0])
            self.die(self.left == 0 and self.point == "before")
        elif self.left == 0 and event == "os.rename" and Path(args[0]) == self.tmp:
            self.die(self.point == "uncommitted")
            self.final = args[1] if self.point == "committed" else None
        elif self.left == 0 and self.point == "inside" and event in ("open", "os.mkdir", "os.rename"):
            self.on_write(str(args[0]))

    def on_write(self, path):
        """Something is written to the checkpoint; from when there are arrays on."""
        if path.startswith(f"{self.tmp}/") and any(self.tmp.rglob("d/*")):
            self.skip -= 1
            self.die(self.skip < 0)

    def on_delete(self, event, args):
        if (
            event == "shutil.rmtree"
            and STEP.search(str(args[0]))
            and any(p.is_file() for p in Path(args[0]).rglob("*"))
        ):
            self.left -= 1
            self.deleter = threading.get_ident() if self.left == 0 else None
        elif event in ("os.remove", "os.rmdir") and threading.get_ident() == self.deleter:
            self.skip -= 1
            self.die(self.skip < 0 or (event == "os.rmdir" and STEP.search(str(args[0]))))

    def die(self, now):
        if now:
            os.kill(os.getpid(), signal.SIGKILL)


def main(workdir, steps, keep, *deadly):
    import logging

    from igpt_jax.run import train

    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    cfg = config(int(steps), int(keep))
    if deadly:
        point, nth, skip = deadly
        sys.addaudithook(Killer(point, int(nth), int(skip)))
    train(cfg, Path(workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
