"""Collectives are read from every form of HLO text: which, how many bytes, how often, between which devices."""

import numpy as np
import pytest

from igpt_jax.analysis.planning.hlo import arrays, axes_crossed, parse_groups, traffic

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def module(entry, *computations):
    return "\n".join(["HloModule test", *computations, "ENTRY %main (p: f32[8,16]) -> f32[8,16] {", entry, "}"])


def only(text):
    collectives, unknown = traffic(text, 8)
    assert not unknown
    assert len(collectives) == 1
    return collectives[0]


PARAM = "  %p = f32[8,16]{1,0} parameter(0)\n"
BYTES = 8 * 16 * 4


RING = "source_target_pairs={{0,4},{4,0},{1,5},{5,1}}"


@pytest.mark.parametrize(
    ("result", "line", "payload", "axes"),
    [
        ("f32[16,16]", "all-gather(%p), replica_groups=[4,2]<=[8]", 2 * BYTES, ("tensor",)),
        ("f32[2,16]", "reduce-scatter(%p), replica_groups={{0,2,4,6},{1,3,5,7}}", BYTES, ("data", "fsdp")),
        ("(f32[8,16], f32[8,16])", "all-reduce(%p, %p), replica_groups={}", 2 * BYTES, tuple(MESH)),
        ("f32[8,16]", "all-to-all(%p), replica_groups=[4,2]<=[2,2,2]T(0,2,1)", BYTES, ("fsdp",)),
        ("f32[8,16]{1,0:T(8,128)S(1)}", f"collective-permute(%p), {RING}", BYTES, ("data",)),
    ],
)
def test_each_kind(result, line, payload, axes):
    one = only(module(f"{PARAM}  ROOT %x = {result} {line}, dimensions={{0}}, to_apply=%add"))
    assert (one.kind, one.payload, one.times, one.overlapped) == (line.split("(")[0], payload, 1, False)
    assert axes_crossed(one.groups, MESH) == axes


def computation(name, result, *lines):
    """One that others call, of the argument %q."""
    return "\n".join([f"%{name} (q: f32[8,16]) -> {result} {{", "  %q = f32[8,16]{1,0} parameter(0)", *lines, "}"])


def scatter(name):
    """A sum over devices of which each keeps a slice, as a fusion."""
    return computation(
        name,
        "f32[4,16]",
        "  %ar = f32[8,16]{1,0} all-reduce(%q), channel_id=3, replica_groups=[4,2]<=[8], to_apply=%add",
        "  ROOT %ds = f32[4,16]{1,0} dynamic-slice(%ar, %i, %z), dynamic_slice_sizes={4,16}",
    )


ALL_REDUCE = "f32[8,16]{1,0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add"
WRITTEN = {
    "a start and its done": (
        "  %s = (f32[8,16]{1,0}, f32[16,16]{1,0}) all-gather-start(%p), replica_groups=[4,2]<=[8]\n"
        "  ROOT %d = f32[16,16]{1,0} all-gather-done(%s)",
        "",
        ("all-gather", 2 * BYTES, True, (16, 16)),
    ),
    "a start of any operation, which counts what it wraps": (
        "  %s = ((f32[8,16]), f32[4,16], u32[]) async-start(%p), calls=%wrapped\n"
        "  ROOT %d = f32[4,16]{1,0} async-done(%s), calls=%wrapped",
        computation("wrapped", "f32[4,16]", "  ROOT %r = f32[4,16]{1,0} reduce-scatter(%q), replica_groups=[4,2]<=[8]"),
        ("reduce-scatter", BYTES, True, (4, 16)),
    ),
    "a sum of which a fusion keeps a slice": (
        "  ROOT %f = f32[4,16]{1,0} fusion(%p), calls=%all-reduce-scatter.1",
        scatter("all-reduce-scatter.1"),
        ("reduce-scatter", BYTES, True, (8, 16)),
    ),
    "a call; the function of a reduce is none": (
        "  %c = f32[8,16]{1,0} call(%p), to_apply=%called\n"
        "  ROOT %r = f32[8]{0} reduce(%c, %p), dimensions={1}, to_apply=%called",
        computation("called", "f32[8,16]", f"  ROOT %ar = {ALL_REDUCE}"),
        ("all-reduce", BYTES, False, (8, 16)),
    ),
    "after a kernel, whose own text ends no computation": (
        '  %q = f32[8,16]{1,0} custom-call(%p), backend_config={\n"a": {\n}\n}\n  ROOT %a = ' + ALL_REDUCE,
        "",
        ("all-reduce", BYTES, False, (8, 16)),
    ),
}


@pytest.mark.parametrize(("entry", "called", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_each_way_to_write_one_collective(entry, called, expected):
    one = only(module(PARAM + entry, called))
    assert (one.kind, one.payload, one.overlapped, one.dims) == expected
    assert one.times == 1


SPARSE_CORE = """\
%add.clone.clone (x.15: bf16[], y.15: bf16[]) -> bf16[] {
  %x.15 = bf16[]{:T(256)S(7)} parameter(0)
  %y.15 = bf16[]{:T(256)S(7)} parameter(1)
  ROOT %add.725 = bf16[]{:T(256)S(7)} add(%x.15, %y.15)
}, execution_thread="sparsecore"

%called_computation.6 (param_0.1120: bf16[512,512], param_5.354: bf16[512,2048], param_6.250: token[]) -> \
(bf16[512,512], bf16[512,2048]) {
  %param_6.250 = token[] parameter(6)
  %param_0.1120 = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(0)
  %param_5.354 = bf16[512,2048]{0,1:T(8,128)(2,1)} parameter(5)
  ROOT %all-reduce.27 = (bf16[512,512]{1,0:T(8,128)(2,1)}, /*index=5*/bf16[512,2048]{0,1:T(8,128)(2,1)}) \
all-reduce(%param_0.1120, /*index=5*/%param_5.354), channel_id=1, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, use_global_device_ids=true, to_apply=%add.clone.clone
}, execution_thread="sparsecore"
"""


def test_an_all_reduce_on_the_sparse_cores_is_counted_once():
    """As the compiler writes it for tpu7x: a call with a start and a done, of a computation of another thread."""
    shapes = "bf16[512,512]{1,0:T(8,128)(2,1)}, /*index=5*/bf16[512,2048]{0,1:T(8,128)(2,1)}"
    entry = (
        "  %fusion.269 = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(0)\n"
        "  %fusion.274 = bf16[512,2048]{0,1:T(8,128)(2,1)} parameter(1)\n"
        '  %ready = token[] custom-call(), custom_call_target="PrepareAsyncCallDone"\n'
        f"  %all-reduce.28.cloned.1.call-start = (({shapes}, token[]), ({shapes})) call-start(%fusion.269, "
        '/*index=5*/%fusion.274, %ready), async_execution_thread="sparsecore", to_apply=%called_computation.6\n'
        f"  ROOT %all-reduce.28.cloned.1.call-done = ({shapes}) call-done(%all-reduce.28.cloned.1.call-start)"
    )
    one = only(module(entry, SPARSE_CORE))
    assert (one.kind, one.payload, one.times, one.overlapped) == ("all-reduce", 2 * 512 * (512 + 2048), 1, True)
    np.testing.assert_array_equal(one.groups, [range(8)])


LOOP = """\
%fused_start (a: f32[8,16]) -> f32[16,16] {{
  %a = f32[8,16]{{1,0}} parameter(0)
  ROOT %g1 = f32[16,16]{{1,0}} all-gather(%a), channel_id=7, replica_groups=[4,2]<=[8], dimensions={{0}}
}}
%fused_done (b: f32[8,16]) -> f32[16,16] {{
  %b = f32[8,16]{{1,0}} parameter(0)
  ROOT %g2 = f32[16,16]{{1,0}} all-gather(%b), channel_id=7, replica_groups=[4,2]<=[8], dimensions={{0}}
}}
%inner_body (i: (u32[], f32[8,16])) -> (u32[], f32[8,16]) {{
  %i = (u32[], f32[8,16]{{1,0}}) parameter(0)
  %n = u32[] get-tuple-element(%i), index=0
  %x = f32[8,16]{{1,0}} get-tuple-element(%i), index=1
  %two = u32[] constant(2)
  %piece = f32[16,16]{{1,0}} fusion(%x), kind=kCustom, calls=%fused_done
  %cp = f32[8,16]{{1,0}} collective-permute(%x), channel_id=8, source_target_pairs={{{{0,1}},{{1,0}}}}
  %next = u32[] add(%n, %two)
  ROOT %t = (u32[], f32[8,16]{{1,0}}) tuple(%next, %cp)
}}
%inner_cond (i: (u32[], f32[8,16])) -> pred[] {{
  %i = (u32[], f32[8,16]{{1,0}}) parameter(0)
  %n = u32[] get-tuple-element(%i), index=0
  %eight = u32[] constant(8)
  ROOT %lt = pred[] compare(%n, %eight), direction=LT
}}
%body (o: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {{
  %o = (s32[], f32[8,16]{{1,0}}) parameter(0)
  %n = s32[] get-tuple-element(%o), index=0
  %x = f32[8,16]{{1,0}} get-tuple-element(%o), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  %go = f32[16,16]{{1,0}} fusion(%x), kind=kCustom, calls=%fused_start
  %zero = u32[] constant({start})
  %copied = u32[] copy(%zero)
  %in = (u32[], f32[8,16]{{1,0}}) tuple(%copied, %x)
  %w = (u32[], f32[8,16]{{1,0}}) while(%in), condition=%inner_cond, body=%inner_body
  %y = f32[8,16]{{1,0}} get-tuple-element(%w), index=1
  ROOT %t = (s32[], f32[8,16]{{1,0}}) tuple(%next, %y)
}}
%cond (o: (s32[], f32[8,16])) -> pred[] {{
  %o = (s32[], f32[8,16]{{1,0}}) parameter(0)
  ROOT %lt = pred[] custom-call(%o), custom_call_target="opaque"
}}"""

WHILE = (
    PARAM + "  %zero = s32[] constant(0)\n  %in = (s32[], f32[8,16]{1,0}) tuple(%zero, %p)\n"
    "  ROOT %w = (s32[], f32[8,16]{1,0}) while(%in), condition=%cond, body=%body"
)
NOTED = ', backend_config={"known_trip_count":{"n":"24"}}'


@pytest.mark.parametrize(
    ("note", "start", "times", "unknown"), [(NOTED, 0, 24 * 4, []), (NOTED, 2, 24 * 3, []), ("", 0, 4, ["w"])]
)
def test_loops_multiply_and_pieces_of_one_gather_are_one(note, start, times, unknown):
    """The compiler notes the outer loop's iterations, the inner loop counts to 8 by two; a gather has pieces in both.

    A loop whose length is unknown is named, and counted once.
    """
    collectives, loops = traffic(module(WHILE + note, LOOP.format(start=start)), 8)
    assert loops == unknown
    assert {one.kind: one.times for one in collectives} == {
        "all-gather": 24 if note else 1,
        "collective-permute": times,
    }
    assert len(collectives) == 2
    assert next(one.overlapped for one in collectives if one.kind == "all-gather")


def test_an_iteration_peeled_off_a_loop_is_counted_beside_it():
    """Both sums have the channel of the original."""
    loop = LOOP.format(start=0).replace("calls=%fused_start", "calls=%all-reduce-scatter.2")
    entry = WHILE.replace("ROOT %w", "%w").replace(
        "%zero =", "%f = f32[4,16]{1,0} fusion(%p), calls=%all-reduce-scatter.1\n  %zero =", 1
    )
    both = [scatter(f"all-reduce-scatter.{i}") for i in (1, 2)]
    collectives, _ = traffic(module(entry + NOTED, *both, loop), 8)
    assert sorted(one.times for one in collectives if one.kind == "reduce-scatter") == [1, 24]


def test_between_slices():
    """As the TPU compiler writes it: what the host gets, and what it has to do with it."""
    entry = (
        PARAM + "  %tok = token[] after-all()\n"
        "  %s = (f32[8,16]{1,0}, u32[], token[]) send(%p, %tok), channel_id=6, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_host_transfer_rendezvous="all-reduce.78_0",_xla_megascale_transfer_type="ALL_REDUCE"}\n'
        "  ROOT %d = token[] send-done(%s), channel_id=6, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}'
    )
    one = only(module(entry))
    assert (one.kind, one.payload, one.dcn) == ("all-reduce", BYTES, True)
    assert traffic(module(entry.replace("megascale", "callback")), 8)[0] == []


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", [[3, 2], [1, 0]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("dimensions={0}", [[0, 1, 2, 3]]),
    ],
)
def test_groups(text, groups):
    np.testing.assert_array_equal(parse_groups(f", channel_id=1, {text}, to_apply=%add", 4), groups)


def test_bytes_of_arrays():
    text = "(bf16[3,5]{1,0:T(8,128)(2,1)}, f8e4m3fn[8], s4[3], pred[], u32[2], token[])"
    sizes = [(30, (3, 5)), (8, (8,)), (2, (3,)), (1, ()), (8, (2,)), (0, ())]
    assert arrays(text) == sizes


def test_unknown_forms_are_errors():
    with pytest.raises(ValueError, match="ENTRY"):
        traffic("nothing", 8)
    with pytest.raises(ValueError, match="unknown form"):
        parse_groups("replica_groups=<something else>", 4)
