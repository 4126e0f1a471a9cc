"""The network written a second time, in numpy and float64, from the paper's section 2 and the release's model.py."""

import numpy as np


def norm(h, g):
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) * g


def forward(params, cfg, tokens, keep=None):
    """(logits [B, T, V], final normed states [B, T, D]) of an AR model, or of a BERT model with some tokens blanked."""
    p = {name: x if isinstance(x, dict) else np.asarray(x, np.float64) for name, x in params.items()}
    attn, mlp = p["h"]["attn"], p["h"]["mlp"]
    batch, t = tokens.shape
    h = p["wte"][tokens]
    if cfg.causal:
        sos = np.broadcast_to(p["sos"], (batch, 1, cfg.d_model))
        h = np.concatenate([sos, h[:, :-1]], axis=1)
    elif keep is not None:
        h = h * keep[:, :, None]
    h = h + p["wpe"]
    for n in range(cfg.n_layer):
        y = norm(h, np.asarray(p["h"]["ln_1"]["g"][n], np.float64))
        wq, wk, wv, wc = (np.asarray(attn[f"{name}_proj"]["w"][n], np.float64) for name in "qkvc")
        q, k, v = (np.einsum("bsf,hef->bhse", y, w) for w in (wq, wk, wv))
        w = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        if cfg.causal:
            w = np.where(np.tril(np.ones((t, t), bool)), w, -1e10)
        w = np.exp(w - w.max(-1, keepdims=True))
        h = h + np.einsum("bhse,hef->bsf", w / w.sum(-1, keepdims=True) @ v, wc)
        y = norm(h, np.asarray(p["h"]["ln_2"]["g"][n], np.float64)) @ np.asarray(mlp["c_fc"]["w"][n], np.float64)
        h = h + (y / (1 + np.exp(-1.702 * y))) @ np.asarray(mlp["c_proj"]["w"][n], np.float64)
    h = norm(h, np.asarray(p["ln_f"]["g"], np.float64))
    return h @ p["wtet"].T, h
