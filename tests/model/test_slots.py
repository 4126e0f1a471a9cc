"""The decoder reads slots: other orders, prefixes and frames are other contents of the same slots, cached or not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ComputeConfig, ImageGPT, ModelConfig
from igpt_jax.model import grow_cache, init_cache
from igpt_jax.sequence import ordered_inputs, raster_inputs
from tests.conftest import F32_ATOL
from tests.data.made import refused
from tests.model.made import made, part, run

T = 64


extend = jax.jit(functools.partial(ImageGPT.apply, method="extend"), static_argnums=0)


def draw_tokens(n=2, t=T, seed=3):
    return jax.random.randint(jax.random.key(seed), (n, t), 0, 16)


def draw_orders(n=2, t=T):
    return jnp.stack([jax.random.permutation(jax.random.key(i), t) for i in range(n)])


def permuted(tokens, orders):
    """Slots in another order than raster, from tokens in raster order."""
    return ordered_inputs(jnp.take_along_axis(tokens, orders, axis=1), orders)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_identity_order_is_raster_bit_for_bit(backend):
    """A raster checkpoint in a model with the tables for other orders, which start at zero, computes the same."""
    raster, params = made(attention=backend)
    other = ImageGPT(ModelConfig.preset("tiny", any_order=True), ComputeConfig(attention=backend))
    params_other = params | {"wpe_source": jnp.zeros((T, 32))}
    x = draw_tokens()
    identity = jnp.tile(jnp.arange(T)[None], (2, 1))
    expected = run(raster, {"params": params}, x)
    np.testing.assert_array_equal(run(other, {"params": params_other}, ordered_inputs(x, identity)), expected)
    params_other["wpe_source"] += 0.1 * jnp.arange(T)[:, None]
    moved = run(other, {"params": params_other}, ordered_inputs(x, identity))
    assert np.abs(moved - expected).max() > 0.01  # the table is read


def test_first_frame_of_a_clip_is_the_image_bit_for_bit():
    image, params = made()
    clip = ImageGPT(ModelConfig.preset("tiny", grid=(2, 8, 8)))
    params_clip = params | {"wpe_frame": jnp.zeros((2, 32))}
    x = draw_tokens(t=2 * T)
    expected = run(image, {"params": params}, x[:, :T])
    first = run(clip, {"params": params_clip}, raster_inputs(x[:, :T]))
    np.testing.assert_array_equal(first, expected)
    params_clip["wpe_frame"] = jnp.array([[0.0], [0.5]]) * jnp.ones((2, 32))
    logits = run(clip, {"params": params_clip}, x)
    np.testing.assert_allclose(logits[:, :T], expected, atol=F32_ATOL)
    still = run(clip, {"params": params | {"wpe_frame": jnp.zeros((2, 32))}}, x)
    assert np.abs(logits - still)[:, T:].max((1, 2)).min() > 0.01


def normed(h, g):
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) * g


@pytest.mark.parametrize("grid", [(8, 8), (4, 4, 4)])
def test_a_slot_holds_what_its_fields_say(grid):
    """What the first block reads, against numpy: colour, where it is from, target, frame, prefix, aligned values."""
    more = {"prefix_slots": 5, "prefix_values": 12, "aligned_values": 3}
    model, params = made(grid=grid, any_order=True, cond_classes=3, **more)
    x, orders = draw_tokens(), draw_orders()
    prefix, aligned = (jax.random.normal(jax.random.key(9), shape) for shape in ((2, 5, 12), (2, T, 3)))
    inputs = permuted(x, orders)._replace(class_id=jnp.array([2, -1]), prefix=prefix, aligned=aligned)
    states = run(model, {"params": params}, inputs, layers=(0,), method="hidden_states")[0]
    p = {name: np.asarray(value) for name, value in params.items() if name not in ("h", "ln_f")}
    colors, order = np.take_along_axis(np.asarray(x), np.asarray(orders), axis=1), np.asarray(orders)
    start = p["sos"] + np.stack([p["class_table"][2], np.zeros(32)])
    held = np.concatenate([start[:, None], p["wte"][colors[:, :-1]] + p["wpe_source"][order[:, :-1]]], axis=1)
    size = len(p["wpe"])
    held = held + p["wpe"][order % size] + (p["wpe_frame"][order // size] if len(grid) == 3 else 0)
    held = held + np.take_along_axis(np.asarray(aligned), order[..., None], axis=1) @ p["aligned_w"]
    patches = np.asarray(prefix) @ p["prefix_w"] + p["prefix_wpe"]
    expected = normed(np.concatenate([patches, held], axis=1), np.asarray(params["h"]["ln_1"]["g"][0]))
    np.testing.assert_allclose(states, expected, atol=F32_ATOL)


def test_no_slot_depends_on_a_later_one_under_an_order_of_its_own_for_each_image():
    """By the gradient: the logits of slot t move with the colour of every earlier slot, and with none from t on."""
    _, params = made(any_order=True)
    orders, x = draw_orders(), draw_tokens()
    inputs = permuted(x, orders)

    def logit_norms(scale_BT):
        """One number a slot; each slot's fed colour is scaled by 1 + its entry."""
        fed = params["wte"][inputs.token] * (1 + scale_BT[..., None])

        # The scaled embeddings enter as a vocabulary of one colour a slot.
        table = fed.reshape(-1, fed.shape[-1])
        tokens = jnp.arange(2 * T).reshape(2, T)
        other = ImageGPT(ModelConfig.preset("tiny", any_order=True, vocab_size=2 * T))
        head = jnp.zeros((2 * T, 32)).at[:16].set(params["wtet"])
        logits = other.apply({"params": params | {"wte": table, "wtet": head}}, inputs._replace(token=tokens))
        return jnp.sum(jnp.square(logits[..., :16]), axis=2)

    influence = jax.jit(jax.jacrev(logit_norms))(jnp.zeros((2, T)))  # [image, slot, image, fed slot]
    for b in range(2):
        own = np.abs(np.asarray(influence)[b, :, b])
        assert np.all(own[np.triu_indices(T, 1)] == 0)
        assert np.all(own[:, 0] == 0)  # slot 0 is fed no colour
        assert np.all(own[1:, 1:][np.tril_indices(T - 1)] > 0)
    assert np.all(np.asarray(influence)[0, :, 1] == 0)


@pytest.mark.parametrize("kind", ["raster", "any_order", "prefix", "aligned", "clip"])
def test_cached_equals_the_whole_sequence(kind):
    """Known slots at once, then one by one, then several at once; the cache grows on the way."""
    cfg = {
        "raster": {},
        "any_order": {"any_order": True},
        "prefix": {"prefix_slots": 6, "prefix_values": 12},
        "aligned": {"aligned_values": 3, "n_layer": 1},
        "clip": {"grid": (4, 4, 4), "n_layer": 1},
    }[kind]
    model, params = made(**cfg)
    x = draw_tokens()
    inputs = permuted(x, draw_orders()) if kind == "any_order" else raster_inputs(x)
    p = model.cfg.prefix_slots
    if p:
        inputs = inputs._replace(prefix=jax.random.normal(jax.random.key(9), (2, p, 12)))
    if kind == "aligned":
        inputs = inputs._replace(aligned=jax.random.normal(jax.random.key(9), (2, T, 3)))
    whole = run(model, {"params": params}, inputs)

    def slots(start, end):
        prefix = inputs.prefix if start == 0 else None
        return part(inputs, start, end)._replace(prefix=prefix, aligned=inputs.aligned)

    cache = init_cache(model.cfg, model.compute, 2, p + 20)
    prefill = jax.jit(lambda *args: model.apply({"params": params}, *args, 0, method="extend"))
    logits, cache = prefill(slots(0, 20), cache)
    parts, cache = [logits], grow_cache(cache, p + T)
    for start, end in [*((t, t + 1) for t in range(20, 30)), (30, 47), (47, T)]:
        logits, cache = extend(model, {"params": params}, slots(start, end), cache, jnp.int32(p + start))
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=F32_ATOL)


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.02), ("int8", 0.04)])
def test_a_smaller_cache_rounds_a_little_and_always_alike(dtype, most):
    """Slots that are read at once see each other as rounded as slots that are read one by one."""
    model, params = made()
    x = draw_tokens()
    inputs, whole = raster_inputs(x), run(model, {"params": params}, x)
    empty = init_cache(model.cfg, model.compute, 2, T, dtype)
    at_once, _ = jax.jit(lambda cache: model.apply({"params": params}, inputs, cache, 0, method="extend"))(empty)
    cache, parts = empty, []
    for t in range(T):
        logits, cache = extend(model, {"params": params}, part(inputs, t, t + 1), cache, jnp.int32(t))
        parts.append(logits)
    one_by_one = np.concatenate(parts, axis=1)
    assert 1e-4 < np.abs(one_by_one - whole).max() < most * np.abs(whole).max()
    assert np.abs(one_by_one - at_once).max() < 0.1 * np.abs(one_by_one - whole).max()
    assert all(x.dtype == dtype for layer in cache for x in layer[:2])


def test_every_slot_sees_the_whole_prefix_and_no_prefix_slot_sees_a_colour():
    model, params = made(prefix_slots=6, prefix_values=12)
    inputs = raster_inputs(draw_tokens())
    prefix = jax.random.normal(jax.random.key(9), (2, 6, 12))

    def states(prefix, x):
        slots = raster_inputs(x)._replace(prefix=prefix)
        return run(model, {"params": params}, slots, method="hidden_states")

    before = states(prefix, inputs.token)
    assert before.shape == (3, 2, 6 + T, 32)
    moved = np.abs(states(prefix.at[:, -1].add(1.0), inputs.token) - before)
    assert moved[1].max(-1).min() > 0  # after one block, the last prefix slot has reached every slot, prefix included
    other = (inputs.token + 1) % 16
    np.testing.assert_array_equal(states(prefix, other)[:2, :, :6], before[:2, :, :6])


def test_wrong_prefixes_are_named():
    model, params = made(prefix_slots=6, prefix_values=12)
    plain, plain_params = made()
    x, zeros = draw_tokens(), jnp.zeros
    refused("reads a picture beside the tokens", model.apply, {"params": params}, x)
    slots = raster_inputs(x)
    refused(r"prefix of shape \(6, 3\)", model.apply, {"params": params}, slots._replace(prefix=zeros((2, 6, 3))))
    for field, shape in (("prefix", (2, 6, 12)), ("aligned", (2, T, 3))):
        other = slots._replace(**{field: zeros(shape)})
        refused(f"{field} of shape", plain.apply, {"params": plain_params}, other)
