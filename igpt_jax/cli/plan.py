"""igpt plan: what a run would cost on accelerators elsewhere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from igpt_jax.cli.common import ConfiguredCommand, Flag
from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from igpt_jax.analysis.planning.plan import DecodingPlan, Plan, TrainingPlan


@dataclass(frozen=True, kw_only=True)
class PlanRun(ConfiguredCommand):
    """What a run would cost on TPUs or GPUs elsewhere: its own program is compiled for them.

    Exit code 1: it does not fit.

    Name an experiment, or a model of the paper with --model.preset.
    """

    less_memory: ClassVar[str] = "compiling for fewer chips needs less"
    topology: str | None = None
    """Chip and shape: v5e:16x16, v5p:8x8x8, v6e:16x16, tpu7x:4x4x4; or GPUs of one node: h100:8, h200:8."""
    slices: int = 1
    """How many such slices, joined by the data-centre network."""
    decoding: Flag = False
    """Decoding of data.batch_size images instead of a training step."""
    no_suggest: Flag = False
    """Do not search for settings that fit if these do not."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> int:
        self.require_named("plan")
        if self.topology is None:
            raise InputError(
                "plan: --topology is missing; it says for which chips, such as --topology v5p:8x8x8 or h200:8"
            )

        from igpt_jax.analysis.planning.make import make_plan_in_child
        from igpt_jax.plugins import experiment_file

        search = not (self.decoding or self.no_suggest)
        plugins = [*self.common.plugin]
        if self.experiment is not None:
            plugins.append(experiment_file(self.experiment))  # it may register parts, too
        plan, suggestion = make_plan_in_child(self.config, self.topology, self.slices, self.decoding, search, plugins)
        if self.json:
            more = {"suggestion": {"options": suggestion[0], "plan": as_dict(suggestion[1])}} if suggestion else {}
            print(json_text(as_dict(plan) | more), end="")
        else:
            print_plan(plan)
            if suggestion:
                print(f"\nIt fits with {' '.join(suggestion[0])}:\n")
                print_plan(suggestion[1])
            elif search and not plan.fits:
                print("\nNone of the changes tried (compute.remat, mesh.fsdp, train.microbatches) makes it fit.")
        return 0 if plan.fits else 1


def as_dict(plan: Plan) -> dict[str, Any]:
    """Fields and derived figures."""
    fields = dataclasses.asdict(plan)
    fields["memory"]["total"] = plan.memory.total
    derived = ("fits", "mfu_bound", "mfu_waiting", "step_bytes")
    return fields | {name: getattr(plan, name) for name in derived if hasattr(plan, name)}


def decimal_bytes(n: float) -> str:
    """Bytes in powers of ten, as chips are sold."""
    return f"{n / 1e9:.2f} GB" if n >= 1e7 else f"{n / 1e6:z.2f} MB"


def print_plan(plan: TrainingPlan | DecodingPlan) -> None:
    """The plan as tables."""
    from rich.console import Console

    from igpt_jax.analysis.planning.plan import DecodingPlan

    console = Console(soft_wrap=True, highlight=False)
    if isinstance(plan, DecodingPlan):
        print_header(plan, plan.topology, f"{plan.images} images", console)
        slot, weights = decimal_bytes(plan.step_bytes), decimal_bytes(plan.weight_bytes)
        rate = f"at most {plan.images_per_s:,.1f} images/s"
        console.print(f"A slot reads {slot} at one device on average ({weights} of it weights): {rate}")
        return
    slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
    parts = f"{plan.microbatches} x " if plan.microbatches > 1 else ""
    print_header(plan, slices + plan.topology, f"{parts}{plan.batch_size // plan.microbatches} images", console)
    if not plan.seconds:
        console.print("The compiler refused it for its size; nothing more is known.")
        return
    bounds = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in plan.seconds.items() if seconds)
    console.print(f"A step takes at least: {bounds}")
    console.print(
        f"{plan.flops.headline / 1e12:,.1f} TFLOP a step ({plan.flops.noncausal / 1e12:,.1f} counting masked keys); "
        f"MFU at most {plan.mfu_bound:.0%}, {plan.mfu_waiting:.0%} with the waits that are in the program"
    )
    for note in plan.notes:
        console.print(f"Note: {note}", markup=False)


def print_header(plan: Plan, name: str, batch: str, console: Console) -> None:
    """What both kinds of plans have: devices, sizes, memory and collectives."""
    from rich.table import Column, Table

    from igpt_jax.model import count_params

    mesh = " x ".join(f"{axis} {n}" for axis, n in plan.mesh.items())
    console.print(f"[bold]{name}[/], {plan.devices} devices: {mesh}")
    console.print(
        f"{count_params(plan.model) / 1e6:,.0f} M parameters, {batch} of {plan.model.n_ctx} tokens, "
        f"{plan.compute.dtype}, attention {plan.compute.attention}, remat {plan.compute.remat}; "
        f"compiled in {plan.compile_seconds:.0f} s"
    )
    memory = plan.memory
    table = Table("", Column(justify="right"), title="Memory at one device", title_justify="left", show_header=False)
    for kind, n in dataclasses.asdict(memory).items():
        if kind != "capacity" and n:
            table.add_row(kind, decimal_bytes(n))
    table.add_row("[bold]total", f"[bold]{decimal_bytes(memory.total)}")
    table.add_row("[bold]" + ("fits" if memory.fits else "DOES NOT FIT"), f"of {decimal_bytes(memory.capacity)}")
    console.print(table)
    if not plan.collectives:
        return
    names = [Column(name, no_wrap=True) for name in ("", "over")]
    numbers = [Column(name, justify="right") for name in ("times", "bytes", "of them waited for", "at least")]
    table = Table(*names, *numbers, title="Collectives at one device", title_justify="left")
    for row in plan.collectives:
        over = " and ".join(row.axes) + (" (DCN)" if row.dcn else "")
        sizes = decimal_bytes(row.payload), decimal_bytes(row.waited_for)
        table.add_row(row.kind, over, str(row.count), *sizes, f"{row.seconds * 1e3:.2f} ms")
    console.print(table)
