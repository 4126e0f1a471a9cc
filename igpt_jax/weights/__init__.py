"""Other formats of the same weights: OpenAI's TensorFlow checkpoints and Hugging Face's directories."""

from igpt_jax.data.sources.tokens import PALETTE as PALETTE
