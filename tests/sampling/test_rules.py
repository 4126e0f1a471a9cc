"""The rules against cases worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.config import SamplerConfig
from igpt_jax.errors import InputError
from igpt_jax.rules import RULES, kth_largest
from igpt_jax.sampling.rules import draw, filter_logits, rules_of

PROBS = jnp.array([[0.5, 0.05, 0.3, 0.15]])
LOGITS = jnp.log(PROBS)


def rules(**settings):
    return rules_of(SamplerConfig(**settings))


def kept(**settings):
    return np.isfinite(np.asarray(filter_logits(LOGITS, rules(**settings))))[0].tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(top_k=1), [True, False, False, False]),
        (dict(top_k=2), [True, False, True, False]),
        (dict(top_k=4), [True] * 4),
        (dict(top_k=99), [True] * 4),
        (dict(top_p=0.4), [True, False, False, False]),
        (dict(top_p=0.6), [True, False, True, False]),  # 0.5 falls short, 0.5 + 0.3 reaches 0.6
        (dict(top_p=0.9), [True, False, True, True]),
        (dict(top_p=1.0), [True] * 4),
        (dict(min_p=0.5), [True, False, True, False]),
        (dict(min_p=0.1), [True] * 4),
        # top-k first: of {0.5, 0.3} renormalised to {0.625, 0.375}, the first alone reaches 0.6
        (dict(top_k=2, top_p=0.6), [True, False, False, False]),
        # temperature first: squaring the probabilities gives the likeliest 0.68
        (dict(temperature=0.5, top_p=0.6), [True, False, False, False]),
    ],
)
def test_which_colours_stay(settings, expected):
    assert kept(**settings) == expected


def test_temperature_divides():
    np.testing.assert_allclose(
        jax.nn.softmax(filter_logits(LOGITS, rules(temperature=2.0))),
        PROBS**0.5 / (PROBS**0.5).sum(),
        rtol=1e-5,
    )


@pytest.mark.parametrize("extreme", [dict(temperature=1e-39), dict(top_p=1e-46), dict(temperature=1e-38, top_p=0.9)])
def test_extremes_leave_the_likeliest(extreme):
    logits = jnp.array([[0.0, 1.0, 5.0, 2.0]])
    assert draw(logits, jax.random.split(jax.random.key(0), 1), rules(**extreme)).tolist() == [2]


def test_draws_follow_the_distribution():
    n = 20_000
    keys = jax.random.split(jax.random.key(0), n)
    drawn = np.asarray(draw(jnp.tile(LOGITS, (n, 1)), keys, rules(top_k=3)))
    expected = np.array([0.5, 0, 0.3, 0.15]) / 0.95
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / n, expected, atol=0.015)


def test_greedy_takes_the_likeliest_and_the_lowest_of_equals():
    logits = jnp.array([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    assert draw(logits, jax.random.split(jax.random.key(0), 2), rules(temperature=0)).tolist() == [1, 0]


@pytest.mark.parametrize("settings", [dict(top_k=0), dict(top_p=0.0), dict(min_p=1.5), dict(temperature=-1)])
def test_bad_settings_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        SamplerConfig(**settings)


@pytest.mark.parametrize("p", [0.05, 0.4, 1.0])
def test_min_p_equals_a_direct_computation(p):
    logits = np.random.default_rng(0).normal(size=(200, 9)).astype(np.float32)
    probs = np.asarray(jax.nn.softmax(logits))
    expected = probs >= p * probs.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(np.isfinite(filter_logits(logits, rules(min_p=p))), expected)
    assert RULES["min_p"].off is SamplerConfig().min_p  # by default it is not even in the program


def test_another_setting_does_not_compile_anew():
    traces = []

    @jax.jit
    def run(logits, keys, rules):
        traces.append(rules)
        return draw(logits, keys, rules)

    keys = jax.random.split(jax.random.key(0), 1)
    for settings in (
        dict(temperature=0.5, top_p=0.9, top_k=2),
        dict(temperature=2.0, top_p=0.5, top_k=3),
        dict(temperature=0, top_p=1.0, top_k=9),
    ):
        np.testing.assert_array_equal(run(LOGITS, keys, rules(**settings)), draw(LOGITS, keys, rules(**settings)))
    assert len(traces) == 1


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_kth_largest_equals_a_sort(k):
    """Ties, both zeros, infinities and values that differ in the last bit among them."""
    rng = np.random.default_rng(k)
    x = rng.normal(size=(50, 30)).astype(np.float32)
    x[1], x[2, ::2], x[3] = 0.0, -np.inf, np.nextafter(np.float32(1), rng.integers(0, 3, 30).astype(np.float32))
    x[4], x[5], x[6] = rng.integers(-2, 3, 30), rng.choice([0.0, -0.0, 1e-45, -1e-45], 30), -np.abs(x[6])
    np.testing.assert_array_equal(jax.jit(kth_largest, static_argnums=1)(x, k), np.sort(x)[:, -k])
