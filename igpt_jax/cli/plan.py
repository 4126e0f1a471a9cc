"""igpt plan: what a run would cost on accelerators that are not here."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from igpt_jax.cli.shared import parse, parse_known
from igpt_jax.config import Config, InputError, ModelConfig

if TYPE_CHECKING:
    from igpt_jax.planning.decoding import DecodingPlan
    from igpt_jax.planning.plan import Plan

USAGE = """\
igpt plan EXPERIMENT.py --topology v5p:8x8x8 [--slices N] [--sampler] [--json] [--no-suggest] [--KEY VALUE ...]
igpt plan --preset xl   --topology v5p:8x8x8 ...

  EXPERIMENT.py   as for igpt train; --tiny takes its small form
  --preset SIZE   one of the paper's models instead, with the default run around it
  --topology      chip and shape: v5e:16x16, v5p:8x8x8, v6e:16x16, tpu7x:4x4x4
  --slices N      so many of them, joined by the data-centre network
  --sampler       decoding of a batch of train.batch_size images instead of a training step
  --json          the plan as JSON
  --no-suggest    do not look for settings that fit when these do not

and any key of the configuration, as for igpt train (its --help lists them). Exit code 1: it does not fit.
"""


def plan_command(args: list[str]) -> int:
    """igpt plan EXPERIMENT.py --topology v5p:8x8x8. Returns 1 when it does not fit, even where a suggestion does."""
    own = argparse.ArgumentParser(prog="igpt plan", add_help=False, allow_abbrev=False)
    own.add_argument("--preset")
    if not any(arg.startswith("--preset") for arg in args):  # else it would take the value of an override
        own.add_argument("experiment", nargs="?")
    own.add_argument("--topology")
    own.add_argument("--slices", type=int, default=1)
    for flag in ("--tiny", "--sampler", "--json", "--no-suggest"):
        own.add_argument(flag, action="store_true")
    known, overrides = parse_known(own, args)
    if {"-h", "--help"} & set(overrides):
        print(USAGE, end="")
        return 0
    if known.preset is None and known.experiment is None:
        raise InputError("plan: no experiment file given, such as experiments/digits.py, and no --preset")
    if known.topology is None:
        raise InputError("plan: --topology says for which accelerators, such as --topology v5p:8x8x8")
    if known.preset:
        default = Config(name=known.preset, model=ModelConfig.preset(known.preset))
    else:
        from igpt_jax import experiment

        default = experiment.load_config(known.experiment, known.tiny)
    cfg = parse(Config, overrides, "plan", default=default)

    from igpt_jax.planning.topology import describe

    target = describe(known.topology, known.slices)
    if known.sampler:
        from igpt_jax.planning.decoding import plan_decoding

        decoding = plan_decoding(cfg, target)
        print(as_json(decoding)) if known.json else print_decoding(decoding)
        return 0 if decoding.fits else 1

    from igpt_jax.planning.plan import plan_training, suggest

    plan = plan_training(cfg, target)
    found = None if plan.fits or known.no_suggest else suggest(cfg, target)
    if known.json:
        print(as_json(plan, suggestion=found and {"options": found[0], "plan": as_dict(found[1])}))
        return 0 if plan.fits else 1
    print_plan(plan)
    if found:
        print(f"\nIt fits with {' '.join(found[0])}:\n")
        print_plan(found[1])
    elif not plan.fits and not known.no_suggest:
        print("\nNone of the changes tried (model.remat, mesh.fsdp, train.microbatches) makes it fit.")
    return 0 if plan.fits else 1


def as_dict(plan: Any) -> dict[str, Any]:
    """Fields and derived figures of a plan."""
    derived = ("fits", "total", "mfu_bound", "mfu_waiting", "images_per_s")
    found = dataclasses.asdict(plan)
    found |= {name: getattr(plan, name) for name in derived if hasattr(plan, name)}
    if "memory" in found:
        found["memory"]["total"] = plan.memory.total
    return found


def as_json(plan: Any, **more: Any) -> str:
    """A plan as indented JSON."""
    return json.dumps(as_dict(plan) | {name: value for name, value in more.items() if value}, indent=2)


def gb(n: float) -> str:
    """Bytes as decimal gigabytes, which the makers count in."""
    return f"{n / 1e9:.2f} GB" if n >= 1e7 else f"{n / 1e6:.2f} MB"


def print_plan(plan: Plan) -> None:
    """The plan as tables."""
    from rich.console import Console
    from rich.table import Table

    model, console = plan.model, Console(soft_wrap=True)
    mesh = " x ".join(f"{axis} {n}" for axis, n in plan.mesh.items())
    slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
    console.print(f"[bold]{slices}{plan.topology}[/], {plan.devices} devices: {mesh}", highlight=False)
    console.print(
        f"{model.n_params / 1e6:,.0f} M parameters, {plan.batch_size} images of {model.n_ctx} tokens"
        + (f" in {plan.microbatches} parts" if plan.microbatches > 1 else "")
        + f", {model.dtype}, attention {model.attention}, remat {model.remat}; "
        + f"compiled in {plan.compile_seconds:.0f} s",
        highlight=False,
    )
    memory_table(plan.memory, console)
    if not plan.seconds:
        console.print("The compiler refused it for its size; nothing more is known.")
        return
    if plan.collectives:
        table = Table(title="Collectives, a step at one device", title_justify="left")
        for column in ("", "over", "times", "bytes", "of them waited for", "at least"):
            table.add_column(column, justify="left" if column in ("", "over") else "right")
        for row in plan.collectives:
            over = " and ".join(row.axes) + (" (DCN)" if row.dcn else "")
            cells = (str(row.count), gb(row.payload), gb(row.waited_for), f"{row.seconds * 1e3:.2f} ms")
            table.add_row(row.kind, over, *cells)
        console.print(table)
    floors = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in plan.seconds.items() if seconds)
    console.print(f"A step takes at least: {floors}", highlight=False)
    console.print(
        f"{plan.flops.headline / 1e12:,.1f} TFLOP a step ({plan.flops.noncausal / 1e12:,.1f} counting unseen keys); "
        f"MFU at most {plan.mfu_bound:.0%}, {plan.mfu_waiting:.0%} with the waits that are in the program",
        highlight=False,
    )
    for note in plan.notes:
        console.print(f"Note: {note}", highlight=False, markup=False)


def memory_table(memory: Any, console: Any) -> None:
    """Bytes at one device by kind, and whether they fit."""
    from rich.table import Table

    table = Table(title="Memory at one device", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for part in dataclasses.fields(memory):
        if part.name != "capacity" and getattr(memory, part.name):
            table.add_row(part.name, gb(getattr(memory, part.name)))
    table.add_row("[bold]total", f"[bold]{gb(memory.total)}")
    table.add_row("[bold]" + ("fits" if memory.fits else "DOES NOT FIT"), f"of {gb(memory.capacity)}")
    console.print(table)


def print_decoding(plan: DecodingPlan) -> None:
    """The plan as a table."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    mesh = " x ".join(f"{axis} {n}" for axis, n in plan.mesh.items())
    console.print(f"[bold]{plan.topology}[/], {plan.devices} devices: {mesh}", highlight=False)
    console.print(
        f"{plan.model.n_params / 1e6:,.0f} M parameters, {plan.images} images of {plan.model.n_ctx} tokens, "
        f"{plan.model.dtype}; compiled in {plan.compile_seconds:.0f} s",
        highlight=False,
    )
    memory_table(plan.memory, console)
    console.print(
        f"A position reads {gb(plan.step_bytes)} at one device on average ({gb(plan.weight_bytes)} of it weights): "
        f"at most {plan.images_per_s:,.1f} images/s",
        highlight=False,
    )
    for row in plan.collectives:
        console.print(
            f"{row.kind} over {' and '.join(row.axes)}: {row.count} times, {gb(row.payload)}, {row.seconds:.3f} s",
            highlight=False,
        )
