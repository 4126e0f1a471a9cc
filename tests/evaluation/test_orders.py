"""An any-order model is one normalised distribution for every order, and the evaluators measure how far they differ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from igpt_jax import Config, ImageGPT, InputError, ModelConfig, SamplerConfig, sample
from igpt_jax.config import OrdersConfig
from igpt_jax.evaluation.orders import HOLES, make_holes, make_orders, nats_in_order, random_orders
from igpt_jax.keys import fold_in, stream
from igpt_jax.objectives import make_objective, token_scores
from igpt_jax.objectives.any_order import draw_orders
from igpt_jax.objectives.ardm import draw_visible
from igpt_jax.sampling.orders import outside_in
from tests.evaluation.made import IMAGES, PALETTE, context, made
from tests.evaluation.made import means as measured_means
from tests.sampling import toy

TOKENS = np.asarray(PALETTE.encode(IMAGES)).reshape(len(IMAGES), 64)
jitted_orders = jax.jit(draw_orders, static_argnums=(1, 2))
jitted_nats = jax.jit(nats_in_order, static_argnums=0)


def test_every_order_is_a_normalised_distribution():
    model, params = toy.toy(any_order=True)
    sums = [np.exp(toy.log_p(model, params, order[None])).sum() for order in toy.ORDERS_OF_FOUR]
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert np.ptp([float(toy.log_p(model, params, order[None])[5]) for order in toy.ORDERS_OF_FOUR]) > 0.1


def test_raster_weights_compute_the_same_in_a_model_of_any_order(tiny):
    """To the bit: logits, and the images that are drawn."""
    model, params = tiny
    other = ImageGPT(ModelConfig.preset("tiny", any_order=True))
    more = params | {"wpe_source": jnp.zeros((64, 32))}
    tokens = jax.random.randint(jax.random.key(1), (2, 64), 0, 16)
    np.testing.assert_array_equal(
        jax.jit(other.apply)({"params": more}, tokens), jax.jit(model.apply)({"params": params}, tokens)
    )
    images = [sample(*pair, PALETTE, 2, sampler=SamplerConfig(seed=4)) for pair in ((model, params), (other, more))]
    np.testing.assert_array_equal(images[0], images[1])


def test_training_orders_come_in_the_shares_asked_for():
    keys = jax.random.split(jax.random.key(0), 400)
    orders = np.asarray(jitted_orders(keys, (4, 6), OrdersConfig(raster=1, masked=2, random=1)))
    assert (np.sort(orders, axis=1) == np.arange(24)).all()
    falls = (np.diff(orders, axis=1) < 0).sum(axis=1)  # 0 in raster order, at most 1 where a hole comes last
    assert 70 < (falls == 0).sum() < 140
    assert 160 < (falls == 1).sum() < 230
    assert 70 < (falls > 1).sum() < 130
    only = np.asarray(jitted_orders(keys[:20], (4, 6), OrdersConfig(raster=1, masked=0, random=0)))
    assert (only == np.arange(24)).all()
    with pytest.raises(InputError, match="orders: one of the shares"):
        OrdersConfig(0, 0, 0)


def test_masks_of_ardm_hide_every_count_alike():
    visible = np.asarray(draw_visible(jax.random.split(jax.random.key(0), 4000), 8))
    counts = np.bincount(visible.sum(axis=1), minlength=9)
    assert counts[8] == 0  # something is always to be predicted
    assert (abs(counts[:8] - 500) < 5 * np.sqrt(500)).all()
    assert (abs(visible.mean(axis=0) - 3.5 / 8) < 0.04).all()


@pytest.mark.parametrize(
    ("name", "cfg", "reason"),
    [
        ("any_order", {}, "model.any_order: must be True"),
        ("any_order", {"any_order": True, "clf_classes": 3}, "model.clf_classes"),
        ("ardm", {}, "model.causal: must be False"),
    ],
)
def test_objectives_that_do_not_fit_are_named(name, cfg, reason):
    with pytest.raises(InputError, match=reason):
        make_objective(Config(objective=name, model=ModelConfig.preset("tiny", **cfg)), PALETTE)


def test_the_nats_of_an_order_are_those_of_the_objective():
    """With one kind of order, the loss is the mean of what `nats_in_order` gives for the orders that were drawn."""
    model, params = made(any_order=True)
    cfg = Config(objective="any_order", model=model.cfg, orders=OrdersConfig(0, 1, 0))
    keys = jax.random.split(jax.random.key(2), len(IMAGES))
    example = jax.jit(make_objective(cfg, PALETTE).example)({"image": IMAGES}, keys)
    nats = jitted_nats(model, params, TOKENS, jitted_orders(keys, (8, 8), cfg.orders))
    loss = jax.jit(lambda params: token_scores(model, params, example, "x").summed.loss)(params)
    np.testing.assert_allclose(loss, nats.mean(), rtol=1e-6)


def test_figures_of_orders_against_numpy():
    model, params = made(any_order=True)
    where = context(model, "any_order", batch_size=4)
    figures = measured_means(make_orders, where, params)
    orders, swaps = random_orders(where.cfg.train.eval_orders, 64, where.cfg.seed)
    nats = np.stack([jitted_nats(model, params, TOKENS, order[None]) for order in orders]).astype(np.float64)
    means = nats.mean(axis=(1, 2))
    raster = float(jitted_nats(model, params, TOKENS, np.arange(64)[None]).mean())
    p = np.exp(-nats.sum(axis=2) + nats.sum(axis=2).min())
    mixture = -(np.log(p.mean(axis=0)) - nats.sum(axis=2).min()) / 64
    gaps = []
    for order, s, before in zip(orders, swaps, nats):
        swapped = order.copy()
        swapped[[s, s + 1]] = order[[s + 1, s]]
        after = np.asarray(jitted_nats(model, params, TOKENS, swapped[None]))
        gaps.append(np.abs((before - after)[:, s : s + 2].sum(axis=1)).mean())
    expected = {
        "raster_nats": raster,
        "random_nats": means.mean(),
        "random_nats_sd": means.std(ddof=1),
        "order_mixture_nats": mixture.mean(),
        "order_gap": means.mean() - raster,
        "swap_gap": np.mean(gaps),
    }
    assert figures == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in expected.items()}
    assert figures["swap_gap"] > 0.01


def test_figures_of_holes_count_the_missing_pixels_alone():
    model, params = made(any_order=True)
    figures = measured_means(make_holes, context(model, "any_order", batch_size=4), params)
    keys = fold_in(fold_in(stream(0, "eval"), np.arange(len(IMAGES))), 0)
    for name, make in HOLES.items():
        holes = np.stack([np.asarray(make(key, (8, 8))).reshape(64) for key in keys])
        for way, orders in (
            ("clamp", np.tile(np.arange(64), (len(IMAGES), 1))),
            ("known_first", np.argsort(holes, axis=1, kind="stable")),
        ):
            nats = np.asarray(jitted_nats(model, params, TOKENS, orders))
            missing = np.take_along_axis(holes, orders, axis=1)
            expected = ((nats * missing).sum(axis=1) / missing.sum(axis=1)).mean()
            assert figures[f"{name}_nats_{way}"] == pytest.approx(expected, rel=1e-5)


def test_outside_in_takes_what_is_nearest_to_the_known_first():
    known = np.zeros((1, 3, 5), bool)
    known[0, 1, 0] = True
    assert outside_in(known, None)[0].tolist() == [5, 0, 6, 10, 1, 11, 7, 2, 12, 8, 3, 13, 9, 4, 14]
    assert outside_in(np.zeros((1, 3, 5), bool), None)[0].tolist() == [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 6, 7, 8]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_small_model_learns_the_same_distribution_for_all_orders():
    """2 x 2 pixels of 2 colours: after training, every order gives the distribution that the data have."""
    model = ImageGPT(ModelConfig(grid=(2, 2), vocab_size=2, n_layer=2, n_head=2, d_model=64, any_order=True))
    images = np.array([[int(c) for c in f"{i:04b}"] for i in range(16)])
    p = np.random.default_rng(0).dirichlet(np.ones(16))
    params = model.init(jax.random.key(0), images)["params"]
    tokens, orders = np.repeat(images, 24, axis=0), np.tile(toy.ORDERS_OF_FOUR, (16, 1))
    weights = jnp.asarray(np.repeat(p, 24) / 24)
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, 3000), b2=0.99)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda q: (nats_in_order(model, q, tokens, orders).sum(axis=1) * weights).sum())(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    params = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=3000)[0][0])((params, tx.init(params)))
    log_q = -np.asarray(nats_in_order(model, params, tokens, orders).sum(axis=1)).reshape(16, 24)
    divergence = (p[:, None] * (np.log(p)[:, None] - log_q)).sum(axis=0)
    assert divergence.max() < 1e-4
