"""One side of a comparison, in a process of its own: it prepares a program, and runs it once for every line it reads.

compare.py starts it:  python sides.py SIDE WHAT SHAPE

SIDE is a name in SIDES, WHAT train or sample, and SHAPE is JSON. It prints a line of JSON with facts when it is
ready, and one with the seconds of each run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

TOP_K = 40
CLIP_NORM = 1.0
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.95)

Shape = dict[str, Any]
"""layers, width, heads, side (of the picture), vocab, batch, dtype; of trained weights also model, a workdir, and
huggingface, a directory."""
Prepared = tuple[Callable[[], Any], dict[str, Any]]
"""What is run once, and facts about it."""


def igpt_jax(what: str, shape: Shape, lookahead: Any = "auto") -> Prepared:
    """This package, as `igpt train` and `igpt sample` run it."""
    from igpt_jax import load_pretrained, sample
    from igpt_jax.analysis.bench import machine, sample_run, train_run
    from igpt_jax.config import ComputeConfig, Config, DataConfig, ModelConfig, OptimConfig, SamplerConfig

    cfg = Config(
        model=ModelConfig(
            grid=(shape["side"], shape["side"]),
            vocab_size=shape["vocab"],
            n_layer=shape["layers"],
            n_head=shape["heads"],
            d_model=shape["width"],
        ),
        data=DataConfig(batch_size=shape["batch"]),
        optim=OptimConfig(lr=LEARNING_RATE, clip_norm=CLIP_NORM),
        compute=ComputeConfig(dtype=shape["dtype"]),
        sampler=SamplerConfig(batch_size=shape["batch"], top_k=TOP_K, lookahead=lookahead),
    )
    if "model" in shape:
        weights, n = load_pretrained(shape["model"]), shape["batch"]
        model = weights.model.clone(compute=cfg.compute)
        options = {"sampler": cfg.sampler, "draft": weights.draft}
        return lambda: sample(model, weights.params, weights.colors, n, **options), machine()
    run = train_run(cfg) if what == "train" else sample_run(cfg)
    return run.once, run.facts | machine()


def one_by_one(what: str, shape: Shape) -> Prepared:
    """The same without guesses: one slot after another."""
    return igpt_jax(what, shape, lookahead=0)


def eager(what: str, shape: Shape, compiled: bool = False) -> Prepared:
    """Hugging Face's ImageGPT in PyTorch: a step of Adam with clipped gradients, or `generate` with its cache."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocab, tokens, batch = shape["vocab"], shape["side"] ** 2, shape["batch"]
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[shape["dtype"]]
    sizes = transformers.ImageGPTConfig(
        vocab_size=vocab + 1,
        n_positions=tokens,
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=vocab,
    )
    model: Any = transformers.ImageGPTForCausalImageModeling(sizes)
    model = model.to(device)
    facts = {"torch": torch.__version__, "transformers": transformers.__version__}

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if what == "sample":
        if "huggingface" in shape:
            model = type(model).from_pretrained(shape["huggingface"]).to(device)
        model = model.to(dtype).eval()
        start = torch.full((batch, 1), vocab, device=device)

        def draw() -> None:
            with torch.inference_mode():
                model.generate(
                    start,
                    attention_mask=torch.ones_like(start),
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=True,
                    top_k=TOP_K,
                )
            wait()

        return draw, facts

    model.train()
    forward: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, BETAS)
    x = torch.randint(0, vocab, (batch, tokens), device=device)
    inputs = torch.cat([torch.full((batch, 1), vocab, device=device), x[:, :-1]], dim=1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = forward(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, vocab), x.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        wait()

    return step, facts


def compiled(what: str, shape: Shape) -> Prepared:
    """The same under torch.compile."""
    return eager(what, shape, compiled=True)


SIDES: dict[str, Callable[[str, Shape], Prepared]] = {
    "igpt_jax": igpt_jax,
    "one_by_one": one_by_one,
    "eager": eager,
    "compiled": compiled,
}


def main() -> None:
    """Prepares, warms up once, and runs for every line."""
    side, what, shape = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    once, facts = SIDES[side](what, shape)
    once()
    print(json.dumps({"facts": facts}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        once()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main()
